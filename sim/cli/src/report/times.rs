//! Time of a token by row, with the busy time of each part of the machine.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use serde_json::Value;

use super::Run;
use super::plot::{self, Area, Drawn, Key, Swatch, palette};
use super::roles::{Role, name, number};
use crate::columns::format;

/// Height of the bars of one row, and from one row to the next.
const BARS: i32 = 54;
const PITCH: i32 = 78;
const TOP: i32 = 10;
const BOTTOM: i32 = 60;

/// The plot, or nothing where there are no times.
pub(super) fn figure(run: &Run<'_>) -> String {
    let bars: Vec<Bar> = run.rows.iter().enumerate().filter_map(Bar::new).collect();
    if bars.is_empty() {
        return String::new();
    }
    let key = |color, text: &str| Key { swatch: Swatch::Bar, color, text: text.into() };
    let parts =
        [(palette::GPU, "GPU busy"), (palette::LINK, "link busy"), (palette::NEAR_DATA, "near-data device busy")];
    let works = |part: usize| bars.iter().any(|bar| bar.busy_us[part].1 > 0.0);
    let mut legend = vec![key(palette::TRACK, "token time (mean)")];
    legend.extend(
        parts.into_iter().enumerate().filter(|(part, _)| works(*part)).map(|(_, (color, text))| key(color, text)),
    );
    let caption = format!(
        "The wide bar is the time of a token; the thin bars in it say for how long each part of the machine is busy in it. The parts \
         work side by side where they can, so that the thin bars need not add up to the wide one; the part with the longest thin bar \
         is the first to relieve. Times are {}.",
        run.time_method
    );
    let height = TOP + BOTTOM + PITCH * bars.len() as i32;
    plot::figure("Time of a token", height as u32, &legend, &caption, |area| draw(area, &bars))
}

/// Times of one row in microseconds.
struct Bar {
    name: String,
    role: Role,
    total_us: f64,
    busy_us: [(RGBColor, f64); 3],
    to_raw: f64,
}

impl Bar {
    fn new((index, row): (usize, &Value)) -> Option<Self> {
        let total_us = row["token_time_us"].as_f64().filter(|time| *time >= 0.0)?;
        Some(Self {
            name: plot::short(name(row), 40),
            role: Role::of(index, row),
            total_us,
            busy_us: [(palette::GPU, "gpu_us"), (palette::LINK, "link_us"), (palette::NEAR_DATA, "ndp_us")]
                .map(|(color, key)| (color, number(row, key))),
            to_raw: number(row, "ratio_to_raw"),
        })
    }

    fn label(&self) -> String {
        let time = format::microseconds(self.total_us);
        match self.role {
            Role::Reference => time,
            _ => format!("{time} ({})", format::ratio(self.to_raw)),
        }
    }
}

fn draw(area: &Area<'_>, bars: &[Bar]) -> Drawn {
    let (width, _) = area.dim_in_pixel();
    let left = bars.iter().map(|bar| plot::text_width(&bar.name)).max().unwrap_or(0) + 40;
    let right = width as i32 - 20 - bars.iter().map(|bar| plot::text_width(&bar.label())).max().unwrap_or(0);
    let longest = bars.iter().flat_map(|bar| bar.busy_us.iter().map(|busy| busy.1).chain([bar.total_us]));
    let longest = longest.filter(|time| time.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let x = |time_us: f64| left + (time_us / longest * f64::from(right - left)).round() as i32;
    let bottom = TOP + PITCH * bars.len() as i32;
    scale(area, longest, bottom, &x)?;
    for (index, bar) in (0..).zip(bars) {
        let top = TOP + index * PITCH + (PITCH - BARS) / 2;
        draw_bar(area, bar, top, left, &x)?;
    }
    area.draw(&PathElement::new([(left, TOP), (left, bottom)], palette::SOFT.stroke_width(2)))?;
    Ok(())
}

/// Grid lines and ticks at round times.
fn scale(area: &Area<'_>, longest: f64, bottom: i32, x: &dyn Fn(f64) -> i32) -> Drawn {
    let step = round_step(longest / 5.0);
    for time_us in (0..).map(|i| f64::from(i) * step).take_while(|time| *time <= longest * (1.0 + 1e-9)) {
        let x = x(time_us);
        area.draw(&PathElement::new([(x, TOP), (x, bottom)], palette::GRID.stroke_width(2)))?;
        let style = plot::text_style(palette::SOFT, HPos::Center, VPos::Top);
        area.draw(&Text::new(format::microseconds(time_us), (x, bottom + 12), style))?;
    }
    Ok(())
}

/// The next 1, 2 or 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|round| *round >= step).unwrap_or(step)
}

fn draw_bar(area: &Area<'_>, bar: &Bar, top: i32, left: i32, x: &dyn Fn(f64) -> i32) -> Drawn {
    let middle = top + BARS / 2;
    let color = if bar.role == Role::Bounded { palette::CPTR } else { palette::INK };
    let text = |text: &str, x: i32, side: HPos| {
        let mut style = plot::text_style(color, side, VPos::Center);
        if bar.role == Role::Bounded {
            style.font = style.font.style(FontStyle::Bold);
        }
        area.draw(&Text::new(text.to_owned(), (x, middle), style))
    };
    text(&bar.name, left - 16, HPos::Right)?;
    area.draw(&Rectangle::new([(left, top), (x(bar.total_us), top + BARS)], palette::TRACK.filled()))?;
    let thin = BARS / 3 - 6;
    let mut end = x(bar.total_us);
    for (index, (color, time_us)) in (0..).zip(&bar.busy_us) {
        if time_us.is_nan() || *time_us <= 0.0 {
            continue;
        }
        let top = top + 3 + index * BARS / 3;
        end = end.max(x(*time_us));
        area.draw(&Rectangle::new([(left, top), (x(*time_us), top + thin)], color.filled()))?;
    }
    text(&bar.label(), end + 12, HPos::Left)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (step, round) in
            [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (6.0, 10.0), (0.03, 0.05), (1234.0, 2000.0)]
        {
            assert!((round_step(step) / round - 1.0).abs() < 1e-9, "{step}");
        }
    }
}

//! Time and energy of a token by row: busy times of the machine's parts, percentiles, energy by component.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use serde_json::Value;

use super::Run;
use super::plot::{self, Area, Drawn, Key, Swatch, Tip, palette};
use super::roles::{Role, name, number};
use super::strips::{Layout, Look, Strip, Strips};
use crate::columns::format;

/// Height of the bars of one row, and from one row to the next.
const BARS: i32 = 54;
const PITCH: i32 = 78;

/// The plot of busy times, or nothing where there are no times.
pub(super) fn figure(run: &Run<'_>) -> String {
    let bars: Vec<Bar> = run.rows.iter().enumerate().filter_map(Bar::new).collect();
    if bars.is_empty() {
        return String::new();
    }
    let parts =
        [(palette::GPU, "GPU busy"), (palette::LINK, "link busy"), (palette::NEAR_DATA, "near-data device busy")];
    let works = |part: usize| bars.iter().any(|bar| bar.busy_us[part].1 > 0.0);
    let mut legend = vec![Key::new(Swatch::Bar, palette::TRACK, "token time (mean)")];
    let busy = parts.into_iter().enumerate().filter(|(part, _)| works(*part));
    legend.extend(busy.map(|(_, (color, text))| Key::new(Swatch::Bar, color, text)));
    let caption = format!(
        "The wide bar is the time of a token; the thin bars in it say for how long each part of the machine is busy in it. The parts \
         work side by side where they can, so that the thin bars need not add up to the wide one; the part with the longest thin bar \
         is the first to relieve. Times are {}.",
        run.time_method
    );
    let height = Layout::height(bars.len(), PITCH);
    plot::figure("Time of a token", height, &legend, &caption, |area, tips| draw(area, tips, &bars))
}

/// Median and tail of the time of a token, or nothing where there are none.
pub(super) fn percentiles(run: &Run<'_>) -> String {
    let strip = |(index, row): (usize, &Value)| Strip {
        name: name(row).into(),
        values: ["token_time_p50_us", "token_time_p95_us", "token_time_p99_us"].map(|key| number(row, key)).into(),
        label: format::microseconds(number(row, "token_time_p99_us")),
        strong: Role::of(index, row) == Role::Bounded,
    };
    Strips {
        title: "Token times: median and tail",
        caption: "The longer the line, the less even the pace: a reader of the text waits for its right end in one of \
                  a hundred tokens. Beside it, that time.",
        series: &["P50", "P95", "P99"],
        look: Look::Marks,
        tick: format::microseconds,
        rows: run.rows.iter().enumerate().map(strip).collect(),
    }
    .figure()
}

/// The time of a token with its band, or nothing where there are no bands.
pub(super) fn bands(run: &Run<'_>) -> String {
    let keys = ["low_token_time_us", "high_token_time_us", "token_time_us"];
    let banded = run.rows.iter().enumerate().filter(|(_, row)| keys.iter().all(|key| row[key].is_number()));
    let strip = |(index, row): (usize, &Value)| Strip {
        name: name(row).into(),
        values: keys.map(|key| number(row, key)).into(),
        label: format::microseconds(number(row, "token_time_us")),
        strong: Role::of(index, row) == Role::Bounded,
    };
    let rows: Vec<Strip> = banded.map(strip).collect();
    if rows.is_empty() {
        return String::new();
    }
    Strips {
        title: "Time of a token and its band",
        caption: "What the machine's numbers that are not known well make of it, as cptr plan takes them. They meet \
                  all rows alike: what is faster mostly stays so where bands overlap.",
        series: &["low end of the band", "high end", "as modelled"],
        look: Look::Marks,
        tick: format::microseconds,
        rows,
    }
    .figure()
}

/// Energy of a token by component, or nothing where there is none.
pub(super) fn energy(run: &Run<'_>) -> String {
    let parts = ["gpu_memory", "gpu_compute", "link", "far_memory", "ndp_compute"];
    let strip = |(index, row): (usize, &Value)| Strip {
        name: name(row).into(),
        values: parts.map(|part| number(&row["energy_by_component_uj"], part)).into(),
        label: format::microjoules(number(row, "energy_uj")),
        strong: Role::of(index, row) == Role::Bounded,
    };
    Strips {
        title: "Energy of a token by component",
        caption: "Dynamic energy, background copies included: what leaves the model's memory pays for the memory \
                  behind the link and for the link, what runs near the data for memory and arrays.",
        series: &ENERGIES,
        look: Look::Stacked,
        tick: format::microjoules,
        rows: run.rows.iter().enumerate().map(strip).collect(),
    }
    .figure()
}

/// Where energy goes.
pub(crate) const ENERGIES: [&str; 5] = ["GPU memory", "GPU chip", "link", "memory behind the link", "near-data arrays"];

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

    fn said(&self) -> String {
        let busy = self.busy_us.iter().zip(["GPU", "link", "near-data device"]);
        let busy = busy.filter(|((_, time), _)| *time > 0.0);
        let busy = busy.map(|((_, time), name)| format!(", {name} busy {}", format::microseconds(*time)));
        format!("{}: {}{}", self.name, self.label(), busy.collect::<String>())
    }
}

fn draw(area: &Area<'_>, tips: &mut Vec<Tip>, bars: &[Bar]) -> Drawn {
    let labels: Vec<String> = bars.iter().map(Bar::label).collect();
    let values = bars.iter().flat_map(|bar| bar.busy_us.iter().map(|busy| busy.1).chain([bar.total_us]));
    let rows = bars.iter().zip(&labels).map(|(bar, label)| (&*bar.name, &**label, bar.role == Role::Bounded));
    let layout = Layout::new(rows, values, PITCH, Look::Stacked);
    layout.scale(area, &format::microseconds)?;
    for ((index, bar), label) in (0..).zip(bars).zip(&labels) {
        let strong = bar.role == Role::Bounded;
        layout.name(area, index, &bar.name, strong)?;
        let end = draw_bar(area, &layout, bar, layout.top(index) + (PITCH - BARS) / 2)?;
        layout.text(area, index, label, (end + 12, HPos::Left), strong)?;
        tips.push(layout.tip(index, bar.said()));
    }
    Ok(())
}

/// Draws the bars of a row, and says where they end.
fn draw_bar(area: &Area<'_>, layout: &Layout, bar: &Bar, top: i32) -> Result<i32, Box<dyn std::error::Error>> {
    let (left, mut end) = (layout.x(0.0), layout.x(bar.total_us));
    plot::bar(area, (left, top), (end, top + BARS), palette::TRACK)?;
    let thin = BARS / 3 - 6;
    for (index, (color, time_us)) in (0..).zip(&bar.busy_us) {
        if time_us.is_nan() || *time_us <= 0.0 {
            continue;
        }
        let top = top + 3 + index * BARS / 3;
        end = end.max(layout.x(*time_us));
        plot::bar(area, (left, top), (layout.x(*time_us), top + thin), *color)?;
    }
    Ok(end)
}

use roxmltree::{Document, Node, ParsingOptions};

use super::*;
use cptr_sim::run::context::Context;
use cptr_sim::run::outcome::{LayerRow, Row, Skipped, TraceSummary};
use cptr_sim::run::{Plan, run};
use cptr_trace::array::FloatArray;
use cptr_trace::{Convention, Meta, Shape, Trace};

fn row(policy: &str, placement: &str, miss_rate: f64, mass_loss: f64) -> Row {
    Row {
        policy: policy.into(),
        placement: placement.into(),
        oracle: placement == "belady",
        cache: 8,
        switch_rate: Some(0.5),
        miss_rate,
        mass_loss,
        agreement: if mass_loss == 0.0 { 1.0 } else { 0.9 },
        loads_per_token: 2.0,
        token_time_us: Some(900.0),
        token_time_p50_us: Some(890.0),
        token_time_p95_us: Some(1200.0),
        token_time_p99_us: Some(1300.0),
        gpu_us: Some(300.0),
        link_us: Some(850.0),
        ndp_us: Some(0.0),
        controller_us: Some(20.0),
        controller_share: Some(20.0 / 900.0),
        energy_uj_per_token: Some(1500.0),
        ratio_to_raw: Some(0.9),
        time_method: "approximate: bytes over bandwidth",
        by_layer: (0..4)
            .map(|layer| LayerRow { layer, switch_rate: Some(0.5), miss_rate: miss_rate * 0.9, mass_loss })
            .collect(),
        miss_rate_timeline: vec![miss_rate; 10],
    }
}

fn outcome(rows: Vec<Row>) -> Outcome {
    Outcome {
        trace: TraceSummary {
            model: "Example".into(),
            tokens: 1000,
            layers: 4,
            experts: 32,
            k: 4,
            recorded: "all router logits".into(),
            domains: vec!["code".into(), "prose".into()],
        },
        system: "offload".into(),
        time_method: "approximate: bytes over bandwidth",
        model: Some("Example".into()),
        cache: 8,
        rows,
        skipped: Vec::new(),
        context: Context {
            snr_db: 3.0,
            locked_share: 0.8,
            lost_locks_per_10k: 4.0,
            changes: vec![510],
            domain_starts: vec![500],
            domain_order: vec![1, 0],
        },
    }
}

fn typical() -> Outcome {
    outcome(vec![
        row("raw", "lru", 0.4, 0.0),
        row("raw", "belady", 0.25, 0.0),
        row("smoothing:alpha=0.3", "lru", 0.3, 0.08),
        row("cptr:eps=0.02", "tracked", 0.2, 0.015),
    ])
}

/// The page of one section, checked: well-formed, and nothing in it asks for anything outside it.
fn page(outcome: &Outcome) -> String {
    let section = Section { title: "Run".into(), introduction: "What it is.".into(), outcome };
    let page = html("Report", &[section]);
    check(&page);
    page
}

fn check(page: &str) {
    let document = parse(page);
    for element in document.descendants().filter(Node::is_element) {
        let name = element.tag_name().name();
        assert!(
            !["script", "link", "img", "image", "iframe", "object", "embed", "use", "base"].contains(&name),
            "{name}"
        );
        for attribute in element.attributes() {
            let (key, value) = (attribute.name(), attribute.value());
            assert!(!key.starts_with("on") && key != "src" && key != "style", "{key}");
            assert!(key != "href" || value.starts_with("#section-"), "{key}={value}");
            assert!(!value.contains("url("), "{key}={value}");
        }
    }
    for style in document.descendants().filter(|node| node.has_tag_name("style")) {
        let text = style.text().unwrap();
        assert!(!text.contains("url(") && !text.contains("@import") && !text.contains("://"));
    }
    assert!(!page.contains("NaN") && !page.contains("inf%"));
}

fn parse(page: &str) -> Document<'_> {
    Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..ParsingOptions::default() }).unwrap()
}

fn headings(page: &str) -> Vec<String> {
    let document = parse(page);
    document.descendants().filter(|node| node.has_tag_name("h3")).map(|node| node.text().unwrap().into()).collect()
}

const PRICE: &str = "Price against gain";
const TIME: &str = "Time of a token";
const TIMELINE: &str = "Miss rate along the trace";
const LAYERS: &str = "Misses and switches by layer";

#[test]
fn shows_everything_that_the_run_has() {
    let mut outcome = typical();
    outcome.skipped.push(Skipped { policy: "x".into(), placement: "lru".into(), reason: "needs <logits>".into() });
    let page = page(&outcome);
    assert_eq!(headings(&page), [PRICE, TIME, TIMELINE, LAYERS]);
    for text in [
        "Example",
        "1,000 tokens",
        "4 layers × 32 experts",
        "top-4",
        "cache 8 experts per layer (25.0%)",
        "approximate",
        "cptr:eps=0.02",
        "belady (bound)",
        "900 µs",
        "1.20 ms",
        "0.90×",
        "1.50%",
        "x with lru: needs &lt;logits&gt;",
        "raw, lru (mass loss 0.00%)",
        "code, prose",
        "1 change of context",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn the_only_address_is_the_svg_namespace() {
    let page = page(&typical());
    assert_eq!(page.matches("://").count(), page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
}

#[test]
fn text_from_traces_is_only_text() {
    let evil =
        "</title></style><script>alert(1)</script><img src=\"https://evil.example/x\" onerror='a()'>&\u{0}\u{1b}]]>";
    let mut outcome = typical();
    outcome.trace.model = evil.into();
    outcome.trace.recorded = evil.into();
    outcome.trace.domains = vec![evil.into(); 2];
    outcome.system = evil.into();
    outcome.model = Some(evil.into());
    for row in &mut outcome.rows {
        row.policy.push_str(evil);
        row.placement.push_str(evil);
    }
    outcome.skipped.push(Skipped { policy: evil.into(), placement: evil.into(), reason: evil.into() });
    let section = || Section { title: evil.into(), introduction: evil.into(), outcome: &outcome };
    let page = html(evil, &[section(), section()]);
    check(&page);
    assert!(!page.contains("<script") && !page.contains("<img"));
    // It is there all the same, as text.
    let document = parse(&page);
    let title = document.descendants().find(|node| node.has_tag_name("h1")).unwrap();
    assert_eq!(title.text().unwrap(), evil.replace(['\u{0}', '\u{1b}'], "\u{fffd}"));
}

#[test]
fn without_model_sizes_there_are_no_times() {
    let mut outcome = typical();
    outcome.model = None;
    for row in &mut outcome.rows {
        for time in [
            &mut row.token_time_us,
            &mut row.token_time_p50_us,
            &mut row.token_time_p95_us,
            &mut row.token_time_p99_us,
            &mut row.gpu_us,
            &mut row.link_us,
            &mut row.ndp_us,
            &mut row.controller_us,
            &mut row.controller_share,
            &mut row.energy_uj_per_token,
            &mut row.ratio_to_raw,
        ] {
            *time = None;
        }
    }
    let page = page(&outcome);
    assert_eq!(headings(&page), [PRICE, TIMELINE, LAYERS]);
    assert!(page.contains("no times") && !page.contains("P99") && !page.contains("approximate"));
}

#[test]
fn without_mass_loss_there_is_no_price() {
    let page = page(&outcome(vec![row("raw", "lru", 0.4, 0.0), row("raw", "lfu", 0.35, 0.0)]));
    assert_eq!(headings(&page), [TIME, TIMELINE, LAYERS]);
    assert!(!page.contains("(bound)") && !page.contains("“bound”"), "no oracle was run");
}

#[test]
fn extremes_still_make_a_page() {
    // One row, one token, one layer, nothing known.
    let mut small = outcome(vec![row("raw", "lru", 1.0, 0.0)]);
    small.trace.tokens = 1;
    small.trace.model = String::new();
    small.rows[0].by_layer.truncate(1);
    small.rows[0].miss_rate_timeline.truncate(1);
    small.rows[0].switch_rate = None;
    small.context.changes.clear();
    small.context.domain_starts.clear();
    assert_eq!(headings(&page(&small)), [TIME, TIMELINE]);
    // No row at all.
    let empty = page(&outcome(Vec::new()));
    assert!(headings(&empty).is_empty() && empty.contains("No row was run."));
    // All equal, all zero, all different by orders of magnitude, more of everything than can be drawn.
    page(&outcome(vec![row("raw", "lru", 0.0, 0.0); 3]));
    let mut wide = outcome((0..60).map(|i| row("cptr", "lru", 1e-3 * f64::from(i), 1e-9 * f64::from(i))).collect());
    wide.rows[5].mass_loss = -0.2;
    wide.rows[7].token_time_us = Some(1e12);
    wide.rows[8].token_time_us = Some(0.0);
    wide.rows[9].by_layer.iter_mut().for_each(|layer| layer.switch_rate = None);
    wide.context.changes = (0..1000).collect();
    wide.context.domain_starts = (1..1000).collect();
    assert!(page(&wide).contains("999 times, too often to draw"));
    // Values that no run should give must not reach the page either.
    let mut broken = typical();
    broken.rows[2].mass_loss = f64::NAN;
    broken.rows[2].miss_rate = f64::INFINITY;
    broken.rows[2].token_time_us = Some(f64::NAN);
    broken.rows[2].miss_rate_timeline = vec![f64::NAN; 10];
    broken.rows[2].by_layer[0].miss_rate = f64::NAN;
    broken.context.snr_db = f64::NAN;
    page(&broken);
}

#[test]
fn marks_and_lines_are_in_the_plots() {
    let page = page(&typical());
    let document = parse(&page);
    let plot = |title: &str| {
        document
            .descendants()
            .find(|node| node.has_tag_name("div") && node.attribute("aria-label") == Some(title))
            .unwrap()
    };
    let count = |title: &str, tag: &str, key: &str, value: &str| {
        plot(title).descendants().filter(|n| n.tag_name().name() == tag && n.attribute(key) == Some(value)).count()
    };
    // One mark per row that is no oracle of the model's own choice, which is the dashed line.
    for color in ["#6B6B6A", "#0072B2", "#D55E00"] {
        assert_eq!(count(PRICE, "circle", "fill", color), 1, "{color}");
        assert_eq!(count(TIMELINE, "polyline", "stroke", color), 1, "{color}");
        assert_eq!(count(LAYERS, "polyline", "stroke", color), 2, "{color}");
    }
    assert_eq!(count(PRICE, "polyline", "stroke", "#8A5FA8"), 1);
    assert_eq!(count(TIMELINE, "polyline", "stroke", "#999998"), 1);
    assert_eq!(count(TIMELINE, "polyline", "stroke", "#222221"), 1);
    assert_eq!(count(TIME, "rect", "fill", "#D5D9DE"), 4);
    assert_eq!(count(TIME, "rect", "fill", "#009E73"), 0, "the near-data device is idle");
}

#[test]
fn domains_are_named_in_the_order_of_the_trace() {
    let page = page(&typical());
    let document = parse(&page);
    let texts: Vec<&str> = document
        .descendants()
        .filter(|n| n.has_tag_name(("http://www.w3.org/2000/svg", "text")))
        .filter_map(|n| n.text())
        .map(str::trim)
        .collect();
    let place = |name: &str| texts.iter().position(|text| *text == name).unwrap();
    assert!(place("prose") < place("code"), "{texts:?}");
}

#[test]
fn every_colour_of_a_plot_has_a_role_in_the_style_sheet() {
    let page = page(&typical());
    let style = include_str!("style.css");
    for node in parse(&page).descendants() {
        for key in ["fill", "stroke"] {
            if let Some(color) = node.attribute(key).filter(|color| *color != "none") {
                assert!(style.contains(&format!("svg [{key}=\"{color}\"]")), "{key} {color}");
            }
        }
    }
}

/// Two domains with their own experts: what the run finds is what the page shows.
#[test]
fn shows_a_real_run() {
    let (tokens, layers, experts, k) = (400, 3, 16, 2);
    let domain = |token: usize| token / 200;
    let id =
        |token: usize, layer: usize, i: usize| ((domain(token) * 8 + (token * (i + 1) + layer) % 4) * 2 + i) % experts;
    let each = || (0..tokens).flat_map(|token| (0..layers).map(move |layer| (token, layer)));
    let ids: Vec<u16> = each().flat_map(|(t, l)| (0..k).map(move |i| id(t, l, i) as u16)).collect();
    let logit = |t: usize, l: usize, e: usize| (0..k).find(|&i| id(t, l, i) == e).map_or(0.0, |i| 3.0 - i as f32);
    let logits = each().flat_map(|(t, l)| (0..experts).map(move |e| logit(t, l, e))).collect();
    let trace = Trace {
        meta: Meta {
            model: "synthetic".into(),
            router: Convention::SoftmaxAll,
            source: String::new(),
            domains: vec!["a".into(), "b".into()],
            layer_ids: vec![1, 2, 5],
        },
        logits: Some(FloatArray::owned([tokens, layers, experts], logits)),
        domain: (0..tokens).map(|t| domain(t) as u8).collect(),
        ..Trace::of_ids(Shape { tokens, layers, experts, k }, ids)
    };
    trace.validate().unwrap();
    let plan = Plan {
        rows: Plan::rows(&[], &[]).unwrap(),
        cache: 4,
        system: cptr_hw_model::System::all()[0].clone(),
        model: cptr_hw_model::Model::all().first().cloned(),
    };
    let outcome = run(&trace, &plan).unwrap();
    let page = page(&outcome);
    assert!(page.contains("synthetic") && page.contains("another domain begins"));
    for row in &outcome.rows {
        assert!(page.contains(&crate::format::percent(row.miss_rate).replace('<', "&lt;")), "{}", row.policy);
        assert!(page.contains(&crate::format::microseconds(row.token_time_us.unwrap())), "{}", row.policy);
    }
}

#[test]
fn writes_the_whole_page_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let outcome = typical();
    let sections = [Section { title: "Run".into(), introduction: String::new(), outcome: &outcome }];
    write(&path, "old", &[]).unwrap();
    write(&path, "Report", &sections).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), html("Report", &sections));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    let missing = folder.path().join("missing/report.html");
    assert!(write(&missing, "Report", &sections).unwrap_err().to_string().contains("missing"));
}

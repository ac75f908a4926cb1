use roxmltree::{Document, Node, ParsingOptions};
use serde_json::json;

use super::*;
use crate::columns::Format::{Percent, Text};
use crate::columns::{Column, column};

static COLUMNS: [Column; 3] = [
    column("strategy", "strategy", Text, ""),
    column("miss_rate", "miss", Percent, "choices that were not resident"),
    column("mass_loss", "mass loss", Percent, ""),
];

fn row(strategy: &str, miss_rate: f64, mass_loss: f64) -> Value {
    let layer = |layer| json!({"layer": layer, "switch_rate": 0.5, "miss_rate": miss_rate * 0.9});
    json!({
        "strategy": strategy, "select": strategy.split('+').next(), "bound": strategy == "belady",
        "sees_future": strategy == "belady", "miss_rate": miss_rate, "mass_loss": mass_loss,
        "agreement": if mass_loss == 0.0 { 1.0 } else { 0.9 }, "token_time_us": 900.0, "token_time_p50_us": 890.0,
        "token_time_p95_us": 990.0, "token_time_p99_us": 1200.0, "gpu_us": 300.0, "link_us": 850.0,
        "ndp_us": 0.0, "ratio_to_raw": 0.9, "by_layer": [layer(0), layer(1), layer(2), layer(3)],
        "miss_rate_timeline": vec![miss_rate; 10],
    })
}

/// What a run found.
struct Found {
    rows: Vec<Value>,
    tokens: usize,
    domains: Vec<String>,
    context: Context,
}

fn found(rows: Vec<Value>) -> Found {
    let mut context = Context::default();
    (context.snr_db, context.locked_share, context.changes) = (3.0, 0.8, vec![510]);
    (context.domain_starts, context.domain_order) = (vec![500], vec![1, 0]);
    Found { rows, tokens: 1000, domains: vec!["code".into(), "prose".into()], context }
}

fn typical() -> Found {
    let rows = [
        ("raw", 0.4, 0.0),
        ("belady", 0.25, 0.0),
        ("smoothing:alpha=0.3", 0.3, 0.08),
        ("bounded:eps=0.02", 0.2, 0.015),
    ];
    found(rows.map(|(name, misses, loss)| row(name, misses, loss)).into())
}

fn section_of(found: &Found, title: &str, fact: &str) -> Section {
    let run = Run {
        rows: &found.rows,
        tokens: found.tokens,
        domains: &found.domains,
        context: &found.context,
        time_method: "approximate: bytes over bandwidth",
    };
    Section {
        title: title.into(),
        introduction: "What it is.".into(),
        facts: vec![fact.into()],
        tables: vec![Table::new(&COLUMNS, &found.rows).starred("sees_future", "sees the future")],
        remarks: Vec::new(),
        figures: figures(&run),
    }
}

fn html(page: &Page) -> String {
    super::html(&Asked { command: "run".into(), line: "cptr run a".into(), ..Asked::default() }, page)
}

/// The page of one section, checked: well-formed, and nothing in it asks for anything outside it.
fn page(found: &Found) -> String {
    let page = html(&Page::default().section(section_of(found, "Run", "")));
    check(&page);
    page
}

fn check(page: &str) {
    let document = parse(page);
    for element in document.descendants().filter(Node::is_element) {
        let name = element.tag_name().name();
        assert!(!["link", "img", "image", "iframe", "object", "embed", "use", "base"].contains(&name), "{name}");
        for attribute in element.attributes() {
            let (key, value) = (attribute.name(), attribute.value());
            assert!(!key.starts_with("on") && key != "src" && key != "style", "{key}");
            assert!(key != "href" || value.starts_with("#section-") || value == "#results", "{key}={value}");
            assert!(!value.contains("url("), "{key}={value}");
        }
    }
    for style in document.descendants().filter(|node| node.has_tag_name("style")) {
        let text = style.text().unwrap();
        assert!(!text.contains("url(") && !text.contains("@import") && !text.contains("://"));
    }
    // One script, ours, and a policy that allows it alone.
    let scripts: Vec<Node<'_, '_>> = document.descendants().filter(|node| node.has_tag_name("script")).collect();
    assert_eq!(scripts.iter().map(|script| script.text().unwrap()).collect::<Vec<_>>(), [SCRIPT]);
    assert_eq!(scripts[0].attributes().count(), 0);
    let hash = BASE64.encode(Sha256::digest(SCRIPT));
    let policy = format!("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'");
    let metas = document.descendants().filter(|node| node.attribute("http-equiv") == Some("Content-Security-Policy"));
    assert_eq!(metas.map(|meta| meta.attribute("content").unwrap()).collect::<Vec<_>>(), [policy]);
    let without_script = page.replace(SCRIPT, "");
    assert!(!without_script.contains("NaN") && !without_script.contains("inf%"));
    accessible(&document);
}

/// What a screen reader and a keyboard need of the document.
fn accessible(document: &Document<'_>) {
    let all = |tag: &'static str| document.descendants().filter(move |node| node.tag_name().name() == tag);
    let within = |node: &Node<'_, '_>, tag: &str| node.ancestors().any(|parent| parent.has_tag_name(tag));
    assert_eq!((all("h1").count(), all("main").count()), (1, 1));
    let mut ids: Vec<&str> = document.descendants().filter_map(|node| node.attribute("id")).collect();
    for link in all("a") {
        assert!(ids.contains(&link.attribute("href").unwrap().trim_start_matches('#')), "{link:?}");
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "every id once");
    for head in all("th") {
        assert!(["row", "col"].contains(&head.attribute("scope").unwrap()));
    }
    for plot in all("svg").filter(|svg| within(svg, "figure") && !within(svg, "ul")) {
        assert_eq!(plot.attribute("role"), Some("img"));
        for part in ["title", "desc"] {
            let text = plot.children().find(|node| node.tag_name().name() == part).and_then(|node| node.text());
            assert!(text.is_some_and(|text| !text.is_empty()), "{part}");
        }
    }
    for figure in all("figure") {
        assert!(figure.children().any(|node| node.has_tag_name("figcaption") && node.text().is_some()));
    }
    for wide in document.descendants().filter(|node| node.attribute("class") == Some("wide")) {
        assert_eq!((wide.attribute("role"), wide.attribute("tabindex")), (Some("region"), Some("0")));
        assert!(wide.attribute("aria-label").is_some_and(|label| !label.is_empty()));
    }
}

#[test]
fn the_top_says_what_was_run_and_what_came_out() {
    let file = InputFile { argument: "source".into(), name: "a<b>".into(), bytes: 1234, sha256: Some("0".repeat(64)) };
    let asked = Asked { command: "run".into(), line: "cptr run 'a<b>'".into(), files: vec![file], ..Asked::default() };
    let page = Page::default().section(section_of(&typical(), "Run", "")).answered("It is \"fast\".".to_owned());
    let page = super::html(&asked, &page);
    check(&page);
    for part in [
        "<p class=\"answer\">It is &quot;fast&quot;.</p>",
        "<code>cptr run &#39;a&lt;b&gt;&#39;</code>",
        "cptr.run/1",
        "<code>a&lt;b&gt;</code>, 1,234 bytes, SHA-256 <code>000000000000…</code>",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let head = page.find("class=\"answer\"").unwrap();
    assert!(head < page.find("<section").unwrap() && head < page.find("<figure").unwrap());
}

#[test]
fn the_script_is_short_and_xml() {
    assert!(SCRIPT.lines().count() < 200 && !SCRIPT.contains(['<', '&']) && !SCRIPT.contains("]]>"));
    for word in ["fetch(", "XMLHttpRequest", "import(", "eval(", "innerHTML", "http"] {
        assert!(!SCRIPT.contains(word), "{word}");
    }
}

fn parse(page: &str) -> Document<'_> {
    Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..ParsingOptions::default() }).unwrap()
}

fn headings(page: &str) -> Vec<String> {
    let document = parse(page);
    document.descendants().filter(|node| node.has_tag_name("h3")).map(|node| node.text().unwrap().into()).collect()
}

const PRICE: &str = "Price against gain";
const PRICE_OF_TIME: &str = "Price against time";
const TIME: &str = "Time of a token";
const TAIL: &str = "Token times: median and tail";
const TIMELINE: &str = "Miss rate along the trace";
const LAYERS: &str = "Misses and switches by layer";

#[test]
fn shows_everything_that_the_run_has() {
    let page = page(&typical());
    assert_eq!(headings(&page), [PRICE, PRICE_OF_TIME, TIME, TAIL, TIMELINE, LAYERS]);
    for text in [
        "bounded:eps=0.02",
        "belady *",
        "* sees the future.",
        "<dt>miss</dt><dd>choices that were not resident</dd>",
        "approximate",
        "900 µs",
        "0.90×",
        "1.50%",
        "raw (mass loss 0.00%)",
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
    let mut found = typical();
    found.domains = vec![evil.into(); 2];
    for row in &mut found.rows {
        row["strategy"] = format!("{}{evil}", row["strategy"].as_str().unwrap()).into();
    }
    let mut section = section_of(&found, evil, evil);
    section.introduction = evil.into();
    section.remarks = vec![evil.into()];
    let page = html(&Page::default().section(section).section(section_of(&found, evil, evil)));
    check(&page);
    assert!(page.matches("<script").count() == 1 && !page.contains("<img"));
    // It is there all the same, as text.
    let document = parse(&page);
    let title = document.descendants().find(|node| node.has_tag_name("h2")).unwrap();
    assert_eq!(title.text().unwrap(), evil.replace(['\u{0}', '\u{1b}'], "\u{fffd}"));
}

#[test]
fn without_model_sizes_there_are_no_times() {
    let mut found = typical();
    for row in &mut found.rows {
        row.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_us") && key != "ratio_to_raw");
    }
    let page = page(&found);
    assert_eq!(headings(&page), [PRICE, TIMELINE, LAYERS]);
    assert!(!page.contains("approximate"));
}

#[test]
fn without_mass_loss_there_is_no_price() {
    let page = page(&found(vec![row("raw", 0.4, 0.0), row("lfu", 0.35, 0.0)]));
    assert_eq!(headings(&page), [TIME, TAIL, TIMELINE, LAYERS]);
    assert!(!page.contains("sees the future"));
}

#[test]
fn stalls_over_loads_where_something_is_fetched() {
    let fetching = |prefetch: &str, stalls: f64, loads: f64| {
        let mut row = row(prefetch, loads, 0.0);
        (row["select"], row["residency"], row["prefetch"]) = (json!("raw"), json!("lru"), json!(prefetch));
        (row["stall_rate"], row["load_rate"], row["fetch_rate"]) = (json!(stalls), json!(loads), json!(loads - stalls));
        row
    };
    let rows = vec![
        fetching("none", 0.4, 0.4),
        fetching("transition:sure=0.7", 0.35, 0.41),
        fetching("transition:sure=0.3", 0.3, 0.5),
        fetching("previous", 0.39, 0.6),
    ];
    let page = page(&found(rows));
    assert!(headings(&page).contains(&"Stalls over loads".into()));
    let document = parse(&page);
    let of = |label: &str| document.descendants().find(|node| node.attribute("aria-label") == Some(label)).unwrap();
    let plot = of("Stalls over loads");
    let count = |tag: &str, key: &str, value: &str| {
        plot.descendants().filter(|node| node.tag_name().name() == tag && node.attribute(key) == Some(value)).count()
    };
    // A mark for each row, a line through the two settings, and one name for both.
    assert_eq!((count("circle", "fill", "#0072B2"), count("polygon", "fill", "#6B6B6A")), (3, 1));
    let texts: Vec<&str> = plot.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    assert!(texts.contains(&"transition:sure=0.3") && !texts.contains(&"transition:sure=0.7"));
}

#[test]
fn extremes_still_make_a_page() {
    // One row, one token, one layer, nothing known.
    let mut small = found(vec![row("raw", 1.0, 0.0)]);
    small.tokens = 1;
    small.rows[0]["by_layer"].as_array_mut().unwrap().truncate(1);
    small.rows[0]["miss_rate_timeline"].as_array_mut().unwrap().truncate(1);
    small.context.changes.clear();
    small.context.domain_starts.clear();
    assert_eq!(headings(&page(&small)), [TIME, TAIL, TIMELINE]);
    // No row at all.
    let empty = page(&found(Vec::new()));
    assert!(headings(&empty).is_empty() && empty.contains("No row was run."));
    // All equal, all zero, all different by orders of magnitude, more of everything than can be drawn.
    page(&found(vec![row("raw", 0.0, 0.0); 3]));
    let mut wide = found((0..60).map(|i| row("bounded", 1e-3 * f64::from(i), 1e-9 * f64::from(i))).collect());
    wide.rows[5]["mass_loss"] = json!(-0.2);
    wide.rows[7]["token_time_us"] = json!(1e12);
    wide.rows[8]["token_time_us"] = json!(0.0);
    wide.rows[9]["by_layer"].as_array_mut().unwrap().iter_mut().for_each(|layer| layer["switch_rate"] = Value::Null);
    wide.context.changes = (0..1000).collect();
    wide.context.domain_starts = (1..1000).collect();
    assert!(page(&wide).contains("999 times, too often to draw"));
    // Values that no run should give must not reach the page either.
    let mut broken = typical();
    for key in ["mass_loss", "miss_rate", "token_time_us"] {
        broken.rows[2][key] = json!(f64::NAN);
    }
    broken.rows[2]["miss_rate_timeline"] = json!([null, null]);
    broken.rows[2]["by_layer"][0]["miss_rate"] = Value::Null;
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
    for (color, mark) in [("#6B6B6A", "polygon"), ("#0072B2", "circle"), ("#D55E00", "polygon")] {
        assert_eq!(count(PRICE, mark, "fill", color), 1, "{color}");
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

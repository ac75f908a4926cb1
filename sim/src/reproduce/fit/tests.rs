use super::*;

/// The figures of a machine with known unknowns, as a paper would publish them.
fn planted(efficiency: f64, mapping: &str, layer_us: f64) -> Paper {
    let mut paper = Paper::find("ctx-aware").unwrap();
    paper.answer = 64;
    paper.parameters.retain(|parameter| {
        ["ndp.memory.mapping", "link.copy_efficiency", "layer_us", "hobbit.holds", "monde.holds"]
            .contains(&parameter.name.as_str())
    });
    for parameter in &mut paper.parameters {
        match parameter.name.as_str() {
            "ndp.memory.mapping" => parameter.values = Some(["mop4clxor", "robaracoch"].map(Into::into).to_vec()),
            "link.copy_efficiency" => parameter.values = Some([0.787, 0.9].map(Into::into).to_vec()),
            _ => {}
        }
    }
    paper.hypotheses.clear();
    paper.figures.retain(|figure| figure.model.as_deref() == Some("Mixtral-8x7B") && figure.bits == Some(2));
    let theory = Modelled::new(&paper).unwrap();
    let at = |name: &str, value: toml::Value| {
        let parameter = paper.parameters.iter().find(|parameter| parameter.name == name).unwrap();
        parameter.values.as_ref().unwrap().iter().position(|one| *one == value).unwrap()
    };
    let (mapping, efficiency) =
        (at("ndp.memory.mapping", mapping.into()), at("link.copy_efficiency", efficiency.into()));
    let point = Point { chi2: 0.0, listed: vec![mapping, efficiency, 1, 1], ranged: vec![layer_us] };
    let mut figures = vec![0.0; theory.expressed.len()];
    solve::Theory::predict(&theory, &point.listed, &point.ranged, &mut figures);
    for (figure, value) in paper.figures.iter_mut().filter(|figure| figure.cannot.is_none()).zip(figures) {
        (figure.value, figure.low, figure.high, figure.error) = (Some(value), None, None, Some(0.005));
    }
    paper
}

/// Planted unknowns of the machine are found through the whole model.
#[test]
fn planted_unknowns_of_a_machine_are_found() {
    for (efficiency, mapping, layer_us) in [(0.9, "robaracoch", 150.0), (0.787, "mop4clxor", 40.0)] {
        let fitted = fit(&planted(efficiency, mapping, layer_us)).unwrap();
        let best = |name: &str| {
            let row = fitted.parameters.iter().find(|parameter| parameter.name == name).unwrap();
            (row.best.clone(), row.verdict)
        };
        assert!(fitted.chi2 < 1e-4, "{fitted:#?}");
        assert_eq!(best("link.copy_efficiency").0, Setting::Number(efficiency));
        assert_eq!(best("ndp.memory.mapping").0, Setting::Name(mapping.into()));
        let (Setting::Number(found), known) = best("layer_us") else { panic!() };
        assert!((found / layer_us - 1.0).abs() < 0.01 && known == Known::Identified, "{found}");
        assert!(fitted.figures.iter().all(|row| row.verdict != Verdict::Out), "{:#?}", fitted.figures);
    }
}

/// What no figure depends on is said to have no influence, and one figure leaves nothing to contradict it.
#[test]
fn what_figures_do_not_say_is_not_identified() {
    let fitted = fit(&Paper::find("monde").unwrap()).unwrap();
    let of = |name: &str| fitted.parameters.iter().find(|parameter| parameter.name == name).unwrap();
    assert_eq!(of("link.copy_efficiency").verdict, Known::NoInfluence);
    let channels = of("ndp.memory.channels");
    assert_eq!((&channels.best, channels.verdict), (&Setting::Number(40.0), Known::Identified));
    assert_eq!((fitted.fitted_values, fitted.used_parameters, fitted.degrees_of_freedom), (1, 1, 0));
    assert!(fitted.figures.iter().all(|row| row.verdict == Verdict::NotIdentifiable && !row.reason.is_empty()));
}

#[test]
fn every_shipped_paper_is_fitted() {
    for name in ["dynande", "cxl-pnm"] {
        let paper = Paper::find(name).unwrap();
        let fitted = fit(&paper).unwrap();
        assert_eq!(fitted.figures.len(), paper.figures.len());
        assert!(fitted.chi2 < 10.0, "{name}: {fitted:#?}");
    }
}

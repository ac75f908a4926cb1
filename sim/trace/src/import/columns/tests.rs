use super::super::testing::Folder;
use super::*;

#[test]
fn the_known_logs_can_be_read() {
    let known: Known = toml::from_str(include_str!("known.toml")).unwrap();
    assert_eq!(known.log.len(), KNOWN.len());
}

#[test]
fn moe_beyond() {
    let folder = Folder::new();
    // All tokens of a layer, then the next; a token that is a line break; numbers without order.
    let text = "Layer ID,Batch Number,Token,Activated Expert IDs\n1,0,a,\"[7, 6]\"\n1,0,\"\n\",\"[5, 6]\"\n2,0,a,\"[2, 1]\"\n\
                2,0,\"\n\",\"[0, 1]\"\n";
    let trace = folder.trace("prompt_1.csv", text, &Options::default());
    assert_eq!((trace.ids, trace.meta.layer_ids), (vec![7, 6, 2, 1, 5, 6, 0, 1], vec![1, 2]));
    assert_eq!((trace.meta.source, trace.position), ("moe-beyond".into(), vec![0, 1]));
}

#[test]
fn speculative_moe_in_both_forms() {
    let folder = Folder::new();
    for position in ["token_idx", "token_pos"] {
        let line = |problem: u32, at: u32, layer: u32, ids: &str| {
            format!(
                r#"{{"dataset": "d", "problem_id": {problem}, "layer": {layer}, "experts": {ids}, "gating_probs": [0.6, 0.4], "{position}": {at}}}"#
            ) + "\n"
        };
        let text = [
            line(5, 0, 0, "[3, 1]"),
            line(5, 0, 1, "[2, 0]"),
            line(7, 0, 0, "[1, 0]"),
            line(7, 0, 1, "[3, 2]"),
            line(5, 1, 0, "[0, 2]"),
            line(5, 1, 1, "[1, 3]"),
            // The same problem once more.
            line(5, 0, 0, "[0, 1]"),
            line(5, 0, 1, "[2, 1]"),
        ];
        let trace = folder.trace("a.jsonl", text.concat(), &Options::default());
        assert_eq!((&trace.sequence[..], &trace.position[..]), (&[0, 0, 1, 2][..], &[0, 1, 0, 0][..]));
        assert_eq!(trace.ids, [3, 1, 2, 0, 0, 2, 1, 3, 1, 0, 3, 2, 0, 1, 2, 1]);
        assert!(trace.weights.is_some());
    }
}

#[test]
fn moe_balance() {
    let folder = Folder::new();
    let line = |layer: u32, batch: u32, ids: &str| {
        format!(r#"{{"layer": {layer}, "batch_id": {batch}, "origin_rows": [0, 1], "topk_experts": {ids}}}"#) + "\n"
    };
    let text =
        [line(3, 12, "[[3,7],[7,1]]"), line(3, 13, "[[2,5]]"), line(4, 12, "[[1,2],[0,2]]"), line(4, 13, "[[6,0]]")];
    let trace = folder.trace("a.jsonl", text.concat(), &Options::default());
    assert_eq!((&trace.sequence[..], &trace.position[..]), (&[0, 0, 1][..], &[0, 1, 0][..]));
    assert_eq!(trace.ids, [3, 7, 1, 2, 7, 1, 0, 2, 2, 5, 6, 0]);
}

#[test]
fn a_log_of_ones_own() {
    let folder = Folder::new();
    let columns = Columns::parse(
        "name = 'mine'\nlayer = 'where'\nexperts = ['first', 'second']\nweights = ['w1', 'w2']\nposition = 'at'\n\
         token = 'id'\nsequence = ['request']\n[phase]\ncolumn = 'kind'\nprefill = ['p']\ndecode = ['d']\n",
    )
    .unwrap();
    let options = Options { columns: Some(columns), ..Options::default() };
    let head = "request,kind,where,at,id,first,second,w1,w2\n";
    let text = format!("{head}r,p,model.layers.3.mlp,0,17,2,1,0.5,0.25\nr,d,model.layers.3.mlp,1,18,0,2,0.5,0.125\n");
    let trace = folder.trace("a.csv", &text, &options);
    assert_eq!((trace.ids, trace.meta.layer_ids, trace.token), (vec![2, 1, 0, 2], vec![3], Some(vec![17, 18])));
    assert_eq!(trace.phase, [Phase::Prefill, Phase::Decode]);
    let refusal = |text: String| folder.refusal("a.csv", text, &options);
    assert!(refusal("request,kind\nr,p\n".into()).contains("expected a column \"first\", found request, kind"));
    assert!(refusal(format!("{head}r,x,3,0,1,2,1,0,0\n")).contains("kind: expected a named phase, found \"x\""));
    assert!(refusal(format!("{head}r,p,3,0,1,2,-1,0,0\n")).contains("second: expected an expert's number, found -1"));
    assert!(refusal(format!("{head}r,p,-3,0,1,2,1,0,0\n")).contains("where: expected the number of a layer"));
    assert!(refusal(format!("{head}r,p,3,0\n")).contains("line 2: expected 9 columns"));
    assert!(refusal(head.into()).contains("expected routing records, found none"));
}

#[test]
fn descriptions_that_are_none() {
    let refusal = |text: &str| Columns::parse(text).unwrap_err().to_string();
    assert!(refusal("name = 'a'\nlayer = 'l'\n").contains("experts"));
    assert!(refusal("name = 'a'\nlayer = 'l'\nexperts = []\n").contains("found an empty list"));
    assert!(refusal("name = 'a'\nlayer = 'l'\nexperts = 'e'\nexpert = 'f'\n").contains("unknown field `expert`"));
}

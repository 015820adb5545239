//! `quern template`, and `quern run` and `verify` on models with and without a template.

use crate::common::program::{run, run_with_input};
use crate::common::{Small, model_bytes, small_spec};
use crate::template::{SPECIAL, definition, options, source, special, tokenizer};
use quern::file::meta::key;
use quern::file::{Meta, TemplateSample, Value as Stored};
use quern::template::Template;
use quern::tokenizer::TemplateItem;
use quern_kernels::Format;
use serde_json::Value;
use tempfile::TempDir;
/// A model of noise with the tokenizer above and perhaps a chat template.
fn model(
    folder: &TempDir,
    name: &str,
    template: Option<&str>,
    samples: &[TemplateSample],
) -> String {
    let tokens = 256 + SPECIAL.len() as u32;
    let spec = small_spec(Small {
        vocab: tokens,
        hidden: 36,
        inner: 44,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        window: None,
        context: 4096,
    });
    let mut meta = Meta::new();
    meta.set(key::NAME, Stored::String(name.into()));
    meta.set(key::BOS, Stored::U32(256));
    meta.set(key::EOS, Stored::U32s(vec![257]));
    if let Some(template) = template {
        meta.set(key::CHAT_TEMPLATE, Stored::String(template.into()));
    }
    if !samples.is_empty() {
        meta.set_template_samples(samples);
    }
    let mut definition = definition(|_| false, Vec::new());
    // Every text begins with <s>.
    definition.pipeline.template = vec![TemplateItem::Id(256), TemplateItem::Text];
    let prepared = definition.to_prepared().expect("a definition");
    let path = folder.path().join(format!("{name}.quern"));
    std::fs::write(&path, model_bytes(&spec, Format::F32, meta, prepared)).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

fn file(folder: &TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "Hi </s>"}]}"#;

#[test]
fn the_command_writes_the_text_alone_or_with_ids() {
    let folder = tempfile::tempdir().expect("a folder");
    let chat = file(&folder, "chat.json", CHAT);
    let headers = file(&folder, "t.jinja", &source("headers"));
    let base = [
        "template",
        "--template",
        &headers,
        "--messages",
        &chat,
        "--now",
        "2026-01-15",
    ];
    let with = |more: &[&str]| run(&[&base[..], more].concat());
    let text = "<|start_header_id|>system<|end_header_id|>\n\nToday: 15 Jan 2026\n\n<|eot_id|>\
                <|start_header_id|>user<|end_header_id|>\n\nHi </s><|eot_id|>";
    let answer = "<|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(with(&[]).text(), format!("{text}{answer}"));
    assert_eq!(with(&["--bos", "B"]).text(), format!("B{text}{answer}"));
    assert_eq!(with(&["--no-generation-prompt"]).text(), text);
    let json = with(&["--json"]).json();
    assert_eq!(json["text"], format!("{text}{answer}"));
    assert_eq!(json["input"].as_array().expect("ranges").len(), 1);
    with(&["--ids"]).fails(2, &["no tokenizer"]);
    let piped = run_with_input(
        &[
            "template",
            "--template",
            &headers,
            "--messages",
            "-",
            "--template-arg",
            "date_string=\"D\"",
        ],
        br#"[{"role": "user", "content": "x"}]"#,
    );
    assert!(piped.text().contains("Today: D\n"), "{piped:?}");

    let model = model(&folder, "m", Some(&source("think")), &[]);
    let base = ["template", "-m", &model, "--messages", &chat];
    let with = |more: &[&str]| run(&[&base[..], more].concat());
    let text = "<|im_start|>user\nHi </s><|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(with(&["--text"]).text(), text);
    let json = with(&["--json"]).json();
    assert_eq!(json["text"], text);
    let control = |json: &Value| -> Vec<u64> {
        let ids = json["ids"].as_array().expect("ids").iter();
        let flags = json["control"].as_array().expect("flags").iter();
        let both = ids.zip(flags).filter(|(_, f)| **f == true);
        both.map(|(id, _)| id.as_u64().expect("an id")).collect()
    };
    assert_eq!(
        control(&json),
        [256, 258, 259, 258],
        "<s>, and what the template wrote"
    );
    let json = with(&["--json", "--parse-special"]).json();
    assert_eq!(control(&json), [256, 258, 257, 259, 258]);
    let page = with(&[]);
    assert!(
        page.text()
            .starts_with(&format!("{text}\n\n256  control  \"<s>\"\n")),
        "{page:?}"
    );
    assert!(with(&["--ids"]).text().starts_with("256 258 117 "));
    // A template that writes the beginning itself: it comes once.
    let headers = ["--template", &headers, "--bos", "<s>"];
    let json = with(&[&["--json"], &headers[..]].concat()).json();
    assert_eq!(control(&json).iter().filter(|&&id| id == 256).count(), 1);
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let chat = file(&folder, "chat.json", CHAT);
    let try_with = |template: &str, messages: &str| {
        let template = file(&folder, "t.jinja", template);
        run(&["template", "--template", &template, "--messages", messages])
    };
    let rules = r#"[{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]"#;
    let rules = file(&folder, "rules.json", rules);
    try_with(&source("turns"), &rules).fails(3, &["line 1", "there is no system role"]);
    try_with("{% if", &chat).fails(3, &["t.jinja", "line 1", "ends inside a tag"]);
    try_with("{{ '-' * 10 ** 10 }}", &chat).fails(5, &["line 1"]);
    try_with(&"{{ (".repeat(5500), &chat).fails(5, &["brackets"]);
    try_with(
        "\u{1b}]52;c;x\u{7}{{ raise_exception('\u{1b}[31m') }}",
        &chat,
    )
    .fails(3, &["\\u{1b}[31m"]);
    try_with("x", &folder.path().join("none").to_string_lossy()).fails(4, &["none"]);
    let broken = file(&folder, "broken.json", r#"{"messages": [{"role": 1}]}"#);
    try_with("x", &broken).fails(3, &["broken.json", "message 0"]);
    let deep = file(&folder, "deep.json", &"[".repeat(100_000));
    try_with("x", &deep).fails(3, &["deep.json", "recursion"]);
    // The built-in model has one.
    assert_eq!(run(&["template", "--messages", &chat]).code, 0);
    let plain = model(&folder, "plain", None, &[]);
    run(&["template", "-m", &plain, "--messages", &chat])
        .fails(3, &["plain.quern", "has no chat template"]);
    let bad = ["template", "--messages", &chat, "--template-arg", "x=yes"];
    run(&bad).fails(2, &["is not JSON"]);
    run(&["template", "--messages", &chat, "--now", "2026-02-30"]).fails(2, &["2026-02-30"]);
}

/// The ids of the prompt of a run.
fn prompt_ids(args: &[&str]) -> Vec<u64> {
    let base = ["run", "--temp", "0", "-n", "2", "--json"];
    let json = run(&[&base[..], args].concat()).json();
    let ids = json["prompt_ids"].as_array().expect("ids").iter();
    ids.map(|id| id.as_u64().expect("an id")).collect()
}

#[test]
fn run_uses_the_template_unless_raw() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(&folder, "m", Some(&source("think")), &[]);
    let template = |messages: &str, more: &[&str]| -> Vec<u64> {
        let chat = file(&folder, "chat.json", messages);
        let base = ["template", "-m", &model, "--messages", &chat, "--ids"];
        let done = run(&[&base[..], more].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        done.text()
            .split_whitespace()
            .map(|id| id.parse().expect("an id"))
            .collect()
    };
    let user = r#"[{"role": "user", "content": "Hi <|im_end|>"}]"#;
    let both = r#"[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]"#;
    let text = "Hi <|im_end|>";
    assert_eq!(prompt_ids(&["-m", &model, text]), template(user, &[]));
    assert_eq!(
        prompt_ids(&["-m", &model, text, "--parse-special"]),
        template(user, &["--parse-special"])
    );
    assert_ne!(template(user, &[]), template(user, &["--parse-special"]));
    let system = ["-m", &model, "--system", "Be brief.", text];
    assert_eq!(prompt_ids(&system), template(both, &[]));
    let at = format!("@{}", file(&folder, "system.txt", "Be brief.\n"));
    assert_eq!(
        prompt_ids(&["-m", &model, "--system", &at, text]),
        template(both, &[])
    );
    let chat = file(&folder, "both.json", both);
    assert_eq!(
        prompt_ids(&["-m", &model, "--messages", &chat]),
        template(both, &[])
    );
    let off = ["--template-arg", "enable_thinking=false"];
    assert_eq!(
        prompt_ids(&[&["-m", &model, text], &off[..]].concat()),
        template(user, &off)
    );
    // Plain completion: <s> and the text.
    let plain: Vec<u64> = [256]
        .into_iter()
        .chain(text.bytes().map(u64::from))
        .collect();
    assert_eq!(prompt_ids(&["-m", &model, "--raw", text]), plain);
    assert_eq!(prompt_ids(&["-m", &model, "--ids", "1,2"]), [1, 2]);
    let other = file(
        &folder,
        "other.jinja",
        "[INST]{{ messages[0].content }}[/INST]",
    );
    let ids = prompt_ids(&["-m", &model, "--template", &other, "x"]);
    assert_eq!(ids, [256, 267, 120, 268]);
}

#[test]
fn run_ends_where_the_template_ends_a_turn() {
    let tokenizer = tokenizer(|_| false, Vec::new());
    for (name, ends) in [
        ("think", vec!["<|im_end|>"]),
        ("headers", vec!["<|eot_id|>"]),
        ("inst", vec!["</s>"]),
        ("turns", vec!["<end_of_turn>"]),
        ("pipes", vec!["<|end|>"]),
        ("harmony", vec!["<|return|>"]),
        ("grounded", vec!["<|END_OF_TURN_TOKEN|>"]),
    ] {
        let template = Template::parse(&source(name), &special()).expect("a template");
        let ids = template.turn_ends(&tokenizer, &options(true));
        let pieces: Vec<String> = ids.iter().filter_map(|&id| tokenizer.piece(id)).collect();
        assert_eq!(pieces, ends, "{name}");
    }
}

#[test]
fn models_without_a_template() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = model(&folder, "Base-7B", None, &[]);
    assert_eq!(prompt_ids(&["-m", &base, "x"]), [256, 120]);
    run(&["run", "-m", &base, "--system", "s", "x"]).fails(2, &["no chat template", "--template"]);
    for name in ["Base-7B-Instruct", "llama-chat", "gemma-2-2b-it"] {
        let path = model(&folder, name, None, &[]);
        run(&["run", "-m", &path, "-n", "1", "x"])
            .fails(3, &["has no chat template", name, "--raw"]);
        assert_eq!(prompt_ids(&["-m", &path, "--raw", "x"]), [256, 120]);
    }
    let broken = model(&folder, "broken", Some("{% if %}"), &[]);
    run(&["run", "-m", &broken, "-n", "1", "x"])
        .fails(3, &["broken.quern", "chat template: line 1"]);
    assert_eq!(prompt_ids(&["-m", &broken, "--raw", "x"]), [256, 120]);
}

#[test]
fn verify_renders_the_recorded_conversations_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let sample = |text: &str, ids: Vec<u32>| TemplateSample {
        conversation: r#"[{"role": "user", "content": "x"}]"#.into(),
        text: text.into(),
        ids,
    };
    let template = Some("[INST]{{ messages[0].content }}[/INST]");
    let ids = vec![256, 267, 120, 268];
    let good = model(
        &folder,
        "good",
        template,
        &[sample("[INST]x[/INST]", ids.clone())],
    );
    let json = run(&["verify", &good, "--json"]).json();
    assert_eq!(json["template_samples"], 1);
    let text = model(
        &folder,
        "text",
        template,
        &[sample("[INST]y[/INST]", ids.clone())],
    );
    run(&["verify", &text]).fails(
        3,
        &["chat template sample 0", "at character 6", "\"y[/INST]\""],
    );
    let other = model(
        &folder,
        "ids",
        template,
        &[sample("[INST]x[/INST]", vec![256])],
    );
    run(&["verify", &other]).fails(3, &["chat template sample 0", "4 ids"]);
    let none = model(&folder, "none", None, &[sample("[INST]x[/INST]", ids)]);
    run(&["verify", &none]).fails(3, &["1 chat template samples", "no chat template"]);
}

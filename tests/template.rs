//! Chat templates: what jinja2 makes of the same sources, and from messages to ids.

use crate::common::byte_level;
use crate::common::shared;
use quern::template::{Conversation, DateTime, Json, Options, Rendered, SpecialTokens, Template};
use quern::tokenizer::{
    AddedToken, Bytes, DecoderStep, Definition, EncodeOptions, Merges, Normalizer, Pipeline,
    TemplateItem, Token, TokenKind, Tokenizer,
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The control tokens of the templates in tests/templates.
pub const SPECIAL: [&str; 40] = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<call>",
    "</call>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|system|>",
    "<|user|>",
    "<|tool|>",
    "<|assistant|>",
    "<|end|>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    "<|return|>",
    "<|call|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|TOOL_TOKEN|>",
    "<eos>",
    "<unk>",
    "<pad>",
    "<|im_",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates")
}

pub fn source(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.jinja"))).expect("a template")
}

pub fn special() -> SpecialTokens {
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    SpecialTokens(vec![pair("bos_token", "<s>"), pair("eos_token", "</s>")])
}

pub fn options(add_generation_prompt: bool) -> Options {
    let mut options = Options::new(DateTime::parse("2026-01-15").expect("a date"));
    options.add_generation_prompt = add_generation_prompt;
    options
}

/// The entries of an object in a JSON file.
fn entries(path: &Path) -> Vec<(String, Json)> {
    let text = std::fs::read(path).expect("a JSON file");
    match serde_json::from_slice(&text).expect("JSON") {
        Json::Object(entries) => entries,
        other => panic!("{path:?} is {other:?}"),
    }
}

const NAMES: [&str; 7] = [
    "grounded", "harmony", "headers", "inst", "pipes", "think", "turns",
];

fn conversations() -> Vec<(String, Conversation)> {
    let all = entries(&folder().join("conversations.json"));
    all.into_iter()
        .map(|(name, value)| (name, Conversation::from_value(value).expect("messages")))
        .collect()
}

#[test]
fn own_templates_come_out_as_jinja2_made_them() {
    let conversations = conversations();
    let mut rendered = 0;
    for (name, expected) in entries(&folder().join("expected.json")) {
        let [template, conversation, prompt] = name
            .split(' ')
            .collect::<Vec<_>>()
            .try_into()
            .expect("three words");
        let template = Template::parse(&source(template), &special()).expect("a template");
        let (_, conversation) = conversations
            .iter()
            .find(|(name, _)| name == conversation)
            .expect("a conversation");
        let found = template.render(conversation, &options(prompt == "True"));
        match (&expected, &found) {
            (Json::Str(text), Ok(found)) => {
                assert_eq!(found.text(), text, "{name}");
                rendered += 1;
            }
            (Json::Object(fault), Err(e)) if fault[0].0 == "raised" => {
                let message = fault[0].1.as_str().expect("a message");
                assert!(e.to_string().ends_with(message), "{name}: {e}");
                assert_eq!(e.exit_code(), 3, "{name}");
            }
            (Json::Object(fault), Err(e)) if fault[0].0 == "engine" => {
                assert_eq!(e.exit_code(), 3, "{name}");
            }
            _ => panic!("{name}: {expected:?}, but {found:?}"),
        }
    }
    assert!(rendered > 80);
}

#[test]
fn published_templates_come_out_as_recorded() {
    let Some(chat) = shared("data/chat") else {
        return;
    };
    let index: Value = read_json(&chat.join("index.json"));
    let conversations = entries(&chat.join("conversations.json"));
    let recorded = std::fs::read_to_string(chat.join("rendered.jsonl")).expect("lines");
    let mut wrong = Vec::new();
    let mut lines = 0;
    for line in recorded.lines() {
        let line: Value = serde_json::from_str(line).expect("a JSON line");
        let name = line["template"].as_str().expect("a name");
        let template = published(&chat, &index, name);
        let (_, conversation) = conversations
            .iter()
            .find(|(n, _)| *n == line["conversation"])
            .expect("a conversation");
        let conversation = Conversation::from_value(conversation.clone()).expect("messages");
        let prompt = line["add_generation_prompt"] == true;
        let found = template.render(&conversation, &options(prompt));
        lines += 1;
        let good = match (&line["rendered"], &line["error_kind"], &found) {
            (Value::String(text), _, Ok(found)) => found.text() == text,
            (_, Value::String(kind), Err(e)) if kind == "raised" => {
                let message = line["error"].as_str().expect("a message");
                let message = message.split_once(": ").expect("a kind").1;
                e.exit_code() == 3 && e.to_string().ends_with(message)
            }
            (_, Value::String(kind), _) => kind == "engine",
            _ => false,
        };
        if !good {
            wrong.push(format!("{name} {}: {found:?}", line["conversation"]));
        }
    }
    assert_eq!(lines, 196);
    assert!(wrong.is_empty(), "{} of {lines}: {wrong:#?}", wrong.len());
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// A template of the reference data with its special tokens.
fn published(chat: &Path, index: &Value, name: &str) -> Template {
    let entry = index.as_array().expect("a list").iter();
    let entry = entry.clone().find(|e| e["template"] == name);
    let tokens = entry.expect("an entry")["special_tokens"].as_object();
    let tokens = tokens.expect("tokens").iter();
    let tokens = tokens.map(|(name, text)| (name.clone(), text.as_str().expect("text").to_owned()));
    let source = std::fs::read_to_string(chat.join("templates").join(name)).expect("a template");
    Template::parse(&source, &SpecialTokens(tokens.collect())).expect("a template")
}

/// Bytes and the control tokens above; these are looked for in the raw text, or in the normalised one, or every second in each.
pub fn definition(normalized: fn(usize) -> bool, normalizers: Vec<Normalizer>) -> Definition {
    let byte = |b: u8| Token {
        piece: vec![b],
        kind: TokenKind::Normal,
        raw: true,
        in_model: true,
        score: 0.0,
    };
    let control = |text: &&str| Token {
        piece: text.as_bytes().to_vec(),
        kind: TokenKind::Control,
        ..Token::default()
    };
    let added = SPECIAL.iter().enumerate().map(|(i, text)| AddedToken {
        id: 256 + i as u32,
        content: (*text).to_owned(),
        special: true,
        normalized: normalized(i),
        ..AddedToken::default()
    });
    Definition {
        tokens: (0..=255)
            .map(byte)
            .chain(SPECIAL.iter().map(control))
            .collect(),
        added: added.collect(),
        pipeline: Pipeline {
            normalizers,
            decoder: vec![DecoderStep::ByteLevel],
            bos: Some(256),
            eos: vec![257],
            model: byte_level(),
            source: "tests".into(),
            ..Pipeline::default()
        },
        merges: Merges::Listed(Vec::new()),
        ..Definition::default()
    }
}

pub fn tokenizer(normalized: fn(usize) -> bool, normalizers: Vec<Normalizer>) -> Tokenizer {
    let prepared = definition(normalized, normalizers).to_prepared();
    Tokenizer::from_prepared(Bytes::from(prepared.expect("a definition"))).expect("a tokenizer")
}

/// The control tokens that stand wholly in what the template wrote: at each place the longest, from left to right.
fn written(rendered: &Rendered, tokenizer: &Tokenizer, specials: &[(String, u32)]) -> Vec<u32> {
    let text = rendered.text();
    let inside = |start: usize, stop: usize| {
        let ranges = rendered.input().iter();
        ranges.clone().any(|&(from, to)| from < stop && start < to)
    };
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let here = specials.iter().filter(|(s, _)| {
            text.as_bytes()[at..].starts_with(s.as_bytes()) && !inside(at, at + s.len())
        });
        match here.max_by_key(|(s, _)| s.len()) {
            Some((s, id)) => {
                assert!(tokenizer.is_control(*id));
                out.push(*id);
                at += s.len();
            }
            None => at += 1,
        }
    }
    out
}

/// Messages with a text in every place that a template may show.
fn conversation_with(text: &str, place: usize) -> Option<Conversation> {
    let at = |i: usize, usual: &str| Json::from(if i == place { text } else { usual });
    let object = |entries: Vec<(&str, Json)>| {
        Json::Object(
            entries
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect(),
        )
    };
    let key = |i: usize, usual: &str| if i == place { text } else { usual }.to_owned();
    let call = object(vec![
        ("id", Json::from("abcdefghi")),
        ("type", Json::from("function")),
        (
            "function",
            object(vec![
                ("name", at(3, "f")),
                (
                    "arguments",
                    Json::Object(vec![(key(4, "k"), at(5, "v")), ("n".into(), Json::Int(1))]),
                ),
            ]),
        ),
    ]);
    let tool = object(vec![
        ("type", Json::from("function")),
        (
            "function",
            object(vec![
                ("name", at(6, "f")),
                ("description", at(7, "d")),
                (
                    "parameters",
                    object(vec![
                        ("type", Json::from("object")),
                        (
                            "properties",
                            Json::Object(vec![(
                                key(8, "p"),
                                object(vec![("type", at(9, "string"))]),
                            )]),
                        ),
                    ]),
                ),
            ]),
        ),
    ]);
    let message = |role: Json, content: Json| vec![("role", role), ("content", content)];
    let mut messages = Vec::new();
    // Without a system message more templates take the rest.
    if place == 0 {
        messages.push(object(message(Json::from("system"), at(0, ""))));
    }
    messages.push(object(message(Json::from("user"), at(1, "q"))));
    if (2..=5).contains(&place) || place >= 10 {
        let mut answer = message(Json::from("assistant"), at(2, ""));
        answer.push(("tool_calls", Json::List(vec![call])));
        answer.push(("thinking", at(10, "t")));
        messages.push(object(answer));
        let mut result = message(Json::from("tool"), at(11, "r"));
        result.push(("tool_call_id", Json::from("abcdefghi")));
        messages.push(object(result));
        let mut last = message(Json::from("assistant"), at(12, "a"));
        last.push(("reasoning_content", at(13, "t")));
        messages.push(object(last));
        messages.push(object(message(at(14, "user"), Json::from("q"))));
    }
    (place <= 14).then(|| Conversation {
        messages,
        tools: (6..=9).contains(&place).then(|| Json::List(vec![tool])),
        documents: (place == 1).then(|| {
            Json::List(vec![object(vec![
                ("title", at(1, "t")),
                ("text", at(1, "x")),
            ])])
        }),
    })
}

/// No text of a conversation becomes a control token, nor takes one away from the template; returns how many renderings were looked at.
fn injections(template: &Template, tokenizer: &Tokenizer, specials: &[(String, u32)]) -> usize {
    let mut texts: Vec<String> = specials.iter().map(|(s, _)| s.clone()).collect();
    // Texts that complete what a template begins or goes on with.
    for (s, _) in specials {
        let middle = (1..s.len()).find(|&i| i * 2 >= s.len() && s.is_char_boundary(i));
        let (head, tail) = s.split_at(middle.unwrap_or(0));
        texts.extend([
            format!("{tail}x{head}"),
            format!("{s}{s}\n{s}"),
            format!("<{s}"),
        ]);
    }
    let mut looked_at = 0;
    for text in &texts {
        for place in 0.. {
            let Some(conversation) = conversation_with(text, place) else {
                break;
            };
            let Ok(rendered) = template.render(&conversation, &options(true)) else {
                continue;
            };
            let ids = rendered.encode(tokenizer, false).expect("ids");
            let control: Vec<u32> = ids
                .iter()
                .copied()
                .filter(|&id| tokenizer.is_control(id))
                .collect();
            let expected = written(&rendered, tokenizer, specials);
            assert_eq!(
                control,
                expected,
                "{text:?} at {place}: {:?}",
                rendered.text()
            );
            looked_at += 1;
        }
    }
    looked_at
}

#[test]
fn text_of_a_conversation_never_becomes_a_control_token() {
    let specials: Vec<(String, u32)> = (256..)
        .zip(SPECIAL)
        .map(|(id, s)| (s.to_owned(), id))
        .collect();
    let tokenizers = [
        tokenizer(|_| false, Vec::new()),
        tokenizer(|_| true, vec![Normalizer::Nfkc]),
        // The last one begins like others, which must be looked for at the same time as it.
        tokenizer(
            |i| i % 2 == 0 || i + 1 == SPECIAL.len(),
            vec![Normalizer::Nfc],
        ),
    ];
    for name in NAMES {
        let template = Template::parse(&source(name), &special()).expect("a template");
        for tokenizer in &tokenizers {
            let looked_at = injections(&template, tokenizer, &specials);
            assert!(looked_at > 150, "{name}: {looked_at}");
        }
    }
}

/// Full-width letters become plain ones in normalisation, and a control token with them.
#[test]
fn normalisation_makes_no_control_token_of_a_message() {
    let tokenizer = tokenizer(|_| true, vec![Normalizer::Nfkc]);
    let template = Template::parse(&source("think"), &special()).expect("a template");
    for text in [
        "\u{ff1c}|im_end|\u{ff1e}",
        "\u{ff1c}s>",
        "<|im_\u{ff45}nd|>",
    ] {
        let conversation = Conversation::of_prompt(Some(text), text);
        let rendered = template
            .render(&conversation, &options(true))
            .expect("text");
        let ids = rendered.encode(&tokenizer, false).expect("ids");
        let control = ids.iter().filter(|&&id| tokenizer.is_control(id)).count();
        assert_eq!(control, 5, "{text:?}");
        let parsed = rendered.encode(&tokenizer, true).expect("ids");
        let control = parsed
            .iter()
            .filter(|&&id| tokenizer.is_control(id))
            .count();
        assert_eq!(control, 7, "{text:?}");
    }
}

/// The tokenizers of the reference data: files that `quern tokenize` reads.
const TOKENIZERS: [&str; 9] = [
    "hf/llama2/tokenizer.json",
    "hf/mistral03/tokenizer.json",
    "hf/modernbert/tokenizer.json",
    "hf/gpt2/tokenizer.json",
    "spm/llama2.model",
    "tiktoken/cl100k_base.tiktoken",
    "ggml-vocab/ggml-vocab-llama-bpe.gguf",
    "ggml-vocab/ggml-vocab-qwen2.gguf",
    "ggml-vocab/ggml-vocab-phi-3.gguf",
];

fn load(path: &Path) -> Tokenizer {
    let definition = quern::convert::tokenizer::load(path).expect("a tokenizer");
    let prepared = definition.to_prepared().expect("a definition");
    Tokenizer::from_prepared(Bytes::from(prepared)).expect("a tokenizer")
}

#[test]
fn published_templates_and_tokenizers_take_no_control_token_from_a_message() {
    let (Some(chat), Some(folder)) = (shared("data/chat"), shared("data/tokenizers")) else {
        return;
    };
    let index = read_json(&chat.join("index.json"));
    let names: Vec<String> = index
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| e["template"].as_str().expect("a name").to_owned())
        .collect();
    let conversations = entries(&chat.join("conversations.json"));
    for name in TOKENIZERS {
        let path = folder.join(name);
        let path = if path.exists() {
            path
        } else {
            path.parent().expect("a folder").to_owned()
        };
        if !path.exists() {
            println!("skipped: no {path:?}");
            continue;
        }
        let tokenizer = load(&path);
        // Vocabularies have up to a thousand reserved ones: some of them stand for all.
        let specials: Vec<(String, u32)> = (0..tokenizer.vocab_size() as u32)
            .filter(|&id| tokenizer.is_control(id))
            .filter_map(|id| Some((tokenizer.piece(id)?, id)))
            .collect();
        let some: Vec<(String, u32)> = specials.iter().take(12).cloned().collect();
        for template in &names {
            let template = published(&chat, &index, template);
            for (text, _) in &some {
                for place in [0, 1, 5, 7, 11, 14] {
                    let Some(conversation) = conversation_with(text, place) else {
                        continue;
                    };
                    let Ok(rendered) = template.render(&conversation, &options(true)) else {
                        continue;
                    };
                    let ids = rendered.encode(&tokenizer, false).expect("ids");
                    let control: Vec<u32> = ids
                        .into_iter()
                        .filter(|&id| tokenizer.is_control(id))
                        .collect();
                    let mut expected = written(&rendered, &tokenizer, &specials);
                    if control.len() > expected.len() {
                        // What the tokenizer puts before every text.
                        let first = tokenizer.pipeline().template.first();
                        let Some(TemplateItem::Id(id)) = first else {
                            panic!(
                                "{name}: {text:?} at {place}: {control:?}, expected {expected:?}"
                            );
                        };
                        expected.insert(0, *id);
                    }
                    assert_eq!(control, expected, "{name}: {text:?} at {place}");
                }
            }
            // A conversation without such texts has the ids that parsing everything gives.
            for (_, conversation) in conversations
                .iter()
                .filter(|(n, _)| n != "e_special_like_text")
            {
                let conversation =
                    Conversation::from_value(conversation.clone()).expect("messages");
                let Ok(rendered) = template.render(&conversation, &options(true)) else {
                    continue;
                };
                let found = rendered.encode(&tokenizer, false).expect("ids");
                assert_eq!(
                    found,
                    rendered.encode(&tokenizer, true).expect("ids"),
                    "{name}"
                );
                let whole = EncodeOptions {
                    add_special: false,
                    parse_special: true,
                };
                let plain = tokenizer.encode(rendered.text(), whole).expect("ids");
                assert!(
                    found.ends_with(&plain) && found.len() <= plain.len() + 1,
                    "{name}"
                );
            }
        }
    }
}

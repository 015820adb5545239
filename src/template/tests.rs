//! Whole templates: idioms of published ones, Python's ways, limits.

use super::{Conversation, DateTime, Json, Options, SpecialTokens, Template, message};

fn special() -> SpecialTokens {
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    SpecialTokens(vec![pair("bos_token", "<s>"), pair("eos_token", "</s>")])
}

fn options() -> Options {
    Options::new(DateTime::parse("2026-01-15").unwrap())
}

fn chat(json: &str) -> Conversation {
    Conversation::from_json(json.as_bytes()).unwrap()
}

/// What a template makes of a user's question.
fn show(source: &str) -> String {
    let conversation = Conversation::of_prompt(None, "Hi");
    match Template::parse(source, &special()).and_then(|t| t.render(&conversation, &options())) {
        Ok(rendered) => rendered.text().to_owned(),
        Err(e) => format!("error {}: {e}", e.exit_code()),
    }
}

#[test]
fn values_are_shown_as_python_shows_them() {
    for (source, shown) in [
        (
            "{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ x }}|",
            "True None 1.0 1e+20 |",
        ),
        (
            "{{ [1, 'a', none, 2.5] }} {{ (1,) }} {{ (1, 2) }}",
            "[1, 'a', None, 2.5] (1,) (1, 2)",
        ),
        (
            "{{ {'a': \"it's\", 'b': [true]} }}",
            "{'a': \"it's\", 'b': [True]}",
        ),
        ("{{ 'a' ~ 1 ~ none ~ x }}", "a1None"),
        (
            "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 4 / 2 }}",
            "3 -4 2 3.5 8 2.0",
        ),
        (
            "{{ '%s has %05.1f %d%%' % ('x', 3.14159, 7) }}",
            "x has 003.1 7%",
        ),
        (
            "{{ 'abc'[::-1] }}{{ 'abc'[-2:] }}{{ [1,2,3][::-1] }}{{ 'x'[5:] }}",
            "cbabc[3, 2, 1]",
        ),
        (
            "{{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'abc'.startswith(('x', 'a')) }}",
            "['a', 'b,c'] ['a', 'b'] True",
        ),
        (
            "{{ 'x</think>y'.split('</think>')[-1] }}{{ '\n\nz\n'.strip('\n') }}",
            "yz",
        ),
        ("{{ 1 if false }}|{{ 'a' if true else 'b' }}", "|a"),
        (
            "{{ 'Hello world'.title() }} {{ 'aB'.upper() }} {{ 'aB'|capitalize }} {{ 'a-b c'|title }}",
            "Hello World AB Ab A-B C",
        ),
        (
            "{{ {'b': 1, 'a': 2}|dictsort }} {{ {'a': 1}.items()|list }}",
            "[('a', 2), ('b', 1)] [('a', 1)]",
        ),
        (
            "{{ [3, 1, 2]|sort|join('-') }} {{ [1, 2]|sum }} {{ 'abc'|first }} {{ [1, 1, 2]|unique|list }}",
            "1-2-3 3 a [1, 2]",
        ),
        (
            "{{ messages|map(attribute='role')|join(',') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
            "user 1",
        ),
        (
            "{{ {'a': [1, {}], 'b': 'é<>&\"\\n'}|tojson }}",
            "{\"a\": [1, {}], \"b\": \"é<>&\\\"\\n\"}",
        ),
        (
            "{{ {'b': 1, 'a': []}|tojson(indent=2, sort_keys=true) }}",
            "{\n  \"a\": [],\n  \"b\": 1\n}",
        ),
        (
            "{{ [1, 2]|tojson(separators=(',', ':')) }}{{ 'é'|tojson(ensure_ascii=true) }}",
            "[1,2]\"\\u00e9\"",
        ),
        (
            "{{ 'a\nb\n\nc'|indent(2) }}|{{ 'a\nb'|indent(1, true) }}",
            "a\n  b\n\n  c| a\n b",
        ),
        (
            "{{ x is defined }}{{ none is none }}{{ 'a' is iterable }}{{ {} is mapping }}{{ 1 is sequence }}{{ true is boolean }}{{ true is integer }}",
            "FalseTrueTrueTrueFalseTrueFalse",
        ),
        (
            "{{ 3 in [1, 3] }}{{ 'a' in 'cat' }}{{ 'a' not in {'a': 1} }}{{ 1 < 2 < 3 }}{{ 1 == true }}",
            "TrueTrueFalseTrueTrue",
        ),
        (
            "{{ 'a'|default('b') }}{{ x|default('b') }}{{ ''|default('b', true) }}{{ x.y|default('c') if x is defined else 'd' }}",
            "abbd",
        ),
        (
            "{{ '12'|int + '0x1f'|int(base=16) + 'x'|int(5) }} {{ '1.5'|float }} {{ 2.5|round }} {{ 3.14159|round(2) }}",
            "48 1.5 2.0 3.14",
        ),
        (
            "{{ ['a', 'b']|map('upper')|list }}{{ [1, 2, 3]|select('odd')|list }}{{ [1, none]|reject('none')|list }}",
            "['A', 'B'][1, 3][1]",
        ),
        (
            "{{ 'abcdef'|replace('a', 'x')|length }}{{ 'a b'.replace(' ', '_', 1) }}{{ 'aXbX'.rsplit('X', 1) }}",
            "6a_b['aXb', '']",
        ),
        (
            "{% set n = namespace(a=1) %}{% for i in range(3) %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}",
            "4",
        ),
        (
            "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 10 %}{{ x }} {% endfor %}{{ x }}",
            "111 111 1",
        ),
        (
            "{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}/{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ ',' if not loop.last }}{% else %}no{% endfor %}",
            "1/23,2/21",
        ),
        (
            "{% for i in [] %}{% else %}none{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
            "nonea1",
        ),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        (
            "{% macro m(a, b='x', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=2, b=3) }}",
            "1x1 132",
        ),
        (
            "{% macro w(t) %}<{{ t }}>{{ caller('z') }}</{{ t }}>{% endmacro %}{% call(v) w('b') %}in {{ v }}{% endcall %}",
            "<b>in z</b>",
        ),
        (
            "{% macro v() %}{{ varargs|join }}{{ kwargs.k }}{% endmacro %}{{ v(1, 2, k=3) }}",
            "123",
        ),
        (
            "{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}",
            "2",
        ),
        (
            "{% for a in [[1, [2]], [3, []]] recursive %}{{ a if a is integer else loop(a) }}{{ loop.depth0 }}{% endfor %}",
            "1122103110",
        ),
        (
            "{% set t %} a {% endset %}[{{ t }}]{% set u | trim %} b {% endset %}[{{ u }}]{% filter upper %}c{% endfilter %}",
            "[ a ][b]C",
        ),
        (
            "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}{% generation %}g{% set q = 1 %}{% endgeneration %}{{ q }}",
            "3g",
        ),
        (
            "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner(';') %}{{ j() }}{{ j() }}",
            "aba;",
        ),
        (
            "{{ dict(a=1, **{'b': 2}) }}{{ dict([('x', 1)]) }}{{ {'a': 1}.get('b', 7) }}{{ {'a': 1}['b'] }}",
            "{'a': 1, 'b': 2}{'x': 1}7",
        ),
        (
            "{{ '12'.isdigit() }}{{ '1a'.isdigit() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '٣'.isdecimal() }} {{ 'a-%s' | format('b') }}{{ '{:>3}|{x}'.format(1, x='y') }}{{ 'é'.nope is defined }}",
            "TrueFalseTrueFalseTrue a-b  1|yFalse",
        ),
        (
            "{{ strftime_now('%d %B %Y') }}{{ bos_token }}{{ [] or 'e' }}{{ 0 and 1 }}{{ not '' }}",
            "15 January 2026<s>e0True",
        ),
        (
            "{{ 'İΑΣ'.lower() }} {{ 'ß'.upper() }} {{ 'ﬁ'.capitalize() }} {{ 'aΣ b'|lower }}",
            "i̇ας SS Fi aς b",
        ),
        (
            "{{ ['b', 'A']|sort }}{{ [{'a': 2}, {'a': 1}]|sort(attribute='a')|map(attribute='a')|list }}{{ [1, 2, 3]|batch(2)|list }}",
            "['A', 'b'][1, 2][[1, 2], [3]]",
        ),
        (
            "{{ 'tool' 'x' }}{{ \"\\u00e9\" }}{{ 'a\\nb' }}{# c #}",
            "toolxéa\nb",
        ),
    ] {
        assert_eq!(show(source), shown, "{source}");
    }
}

#[test]
fn what_is_not_possible_is_an_error_with_its_line() {
    for (source, part) in [
        (
            "a\n{{ raise_exception('only \"users\" here') }}",
            "error 3: chat template: line 2: the template raised: only \"users\" here",
        ),
        ("{{ x.y }}", "\"x\" is undefined"),
        ("{{ messages[0].foo.bar }}", "\"foo\""),
        ("{{ 'a' + 1 }}", "cannot add int to str"),
        ("{{ 'a' + {} }}", "cannot add dict to str"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ x() }}", "\"x\" is undefined"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ 'a'|nonsense }}", "the filter \"nonsense\" is not known"),
        ("{{ 1 is nonsense }}", "the test \"nonsense\" is not known"),
        ("{{ x|tojson }}", "\"x\" is undefined"),
        ("{{ 1 in 5 }}", "int contains nothing"),
        ("{% for a in 5 %}{% endfor %}", "int cannot be gone through"),
        (
            "{% for a, b in [[1]] %}{% endfor %}",
            "1 values are assigned to 2 names",
        ),
        ("{% include 'x' %}", "the tag \"include\" is not known"),
        (
            "{% if 1 %}",
            "the end of the template, expected {% elif or else or endif %}",
        ),
        ("{% break %}", "is not inside a loop"),
        ("{{ 1 +}}", "found }}, expected an expression"),
        ("{% set a.b = 1 %}", "\"a\" is undefined"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "too many"),
        (
            "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}",
            "no parameter \"b\"",
        ),
        ("{{ {[]: 1} }}", "cannot be a key"),
        ("{{ [1, 'a']|sort }}", "have no order"),
        (
            "{{ 99999999999999999999999999999999999999999 }}",
            "is not a number",
        ),
    ] {
        let shown = show(source);
        assert!(shown.starts_with("error 3: "), "{source}: {shown}");
        assert!(shown.contains(part), "{source}: {shown}");
    }
}

#[test]
fn limits_are_errors_in_bounded_memory() {
    let nested =
        |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
    let sources = [
        "{{ '-' * 10 ** 10 }}".to_owned(),
        "{{ ['-'] * 10 ** 12 }}".to_owned(),
        "{{ 'a'|indent(10 ** 12, true) }}".to_owned(),
        "{{ [[1]]|tojson(indent=10 ** 11) }}".to_owned(),
        "{{ range(10 ** 9) }}".to_owned(),
        "{{ 'a'.center(10 ** 12) }}{{ 'a'.zfill(10 ** 12) }}".to_owned(),
        "{{ 'a'.ljust(10 ** 30) }}".to_owned(),
        "{{ '%9999999999d' % 1 }}".to_owned(),
        "{{ '{:>9999999999}'.format(1) }}".to_owned(),
        "{{ '\t'.expandtabs(10 ** 11) }}".to_owned(),
        "{{ [1]|slice(10 ** 11)|list }}{{ [1]|batch(10 ** 11, 1)|list }}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}".to_owned(),
        "{% macro f() %}{{ 'x' * 10 ** 7 }}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}".to_owned(),
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}".to_owned(),
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}".to_owned(),
        "{% set n = namespace(s='xxxx') %}{% for i in range(99) %}{% set n.s = n.s|replace('x', 'xxxx') %}{% endfor %}".to_owned(),
        "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s.join(n.s) %}{% endfor %}".to_owned(),
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}".to_owned(),
        "{% set n = namespace(s=[]) %}{% for i in range(999) %}{% set n.s = [n.s] %}{% endfor %}".to_owned(),
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}".to_owned(),
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'abc' }}{% endfor %}{% endfor %}".to_owned(),
        "{% set n = namespace() %}{% for i in range(99999) %}{% set n.s = namespace(s=n.s, t='x' * 9999) %}{% endfor %}".to_owned(),
        "{% set x = 'x' * 10 ** 7 %}{% for i in range(99999) %}{{ x.count('y') }}{% endfor %}".to_owned(),
        nested("{{ (", "1", ") }}", 1).replace("(1)", &nested("(", "1", ")", 5500)),
        format!("{{{{ {} }}}}", nested("[", "1", "]", 150)),
        nested("{% if 1 %}", "x", "{% endif %}", 5500),
        nested("{% for a in [1] %}", "x", "{% endfor %}", 101),
        format!("{{{{ {}1 }}}}", "not ".repeat(5500)),
        format!("{{{{ {}1 }}}}", "- ".repeat(5500)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(5500)),
        format!("{{{{ a{} }}}}", ".a".repeat(5500)),
        format!("{{{{ a{} }}}}", "|trim".repeat(5500)),
        format!("{{{{ {} 1 }}}}", "1 if 1 else ".repeat(5500)),
        format!("{{{{ {}", "{{".repeat(5500)),
        " ".repeat((1 << 20) + 1),
    ];
    // The stack of a thread of rayon's or of a test, which is the smallest that this runs in.
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let handle = thread.spawn(move || {
        for source in sources {
            let shown = show(&source);
            let start: String = source.chars().take(100).collect();
            assert!(shown.starts_with("error 5: "), "{start}: {:.200}", shown);
        }
    });
    handle.unwrap().join().unwrap();
}

#[test]
fn what_real_templates_do_stays_within_the_limits() {
    let grow = "{% set n = namespace(l=[]) %}{% for i in range(3000) %}{% set n.l = n.l + [i] %}{% endfor %}{{ n.l|length }}";
    assert_eq!(show(grow), "3000");
    assert_eq!(
        show(&format!("{{{{ {} }}}}", vec!["'a'"; 250].join(" + "))),
        "a".repeat(250)
    );
    let deep = "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{% else %}end{% endif %}{% endmacro %}{{ f(60) }}";
    assert_eq!(show(deep), "end");
    // Long conversations: every message is looked at for every message, and one is very long.
    let mut conversation = Conversation::default();
    for i in 0..500 {
        conversation
            .messages
            .push(message(["user", "assistant"][i % 2], &"text ".repeat(200)));
    }
    conversation
        .messages
        .push(message("user", &"long ".repeat(400_000)));
    let source = "{% set n = namespace(t='') %}{% for m in messages %}{% for o in messages[loop.index:] %}{% endfor %}\
                  {% set n.t = n.t + '<|' + m.role + '|>' + m.content|trim %}{% endfor %}{{ n.t }}";
    let template = Template::parse(source, &special()).unwrap();
    let rendered = template.render(&conversation, &options()).unwrap();
    assert!(rendered.text().len() > 2_490_000);
    assert_eq!(rendered.input().len(), 501);
}

/// Text of messages as the template left it, `[` and `]` around what came from the conversation.
fn marks(source: &str, conversation: &Conversation) -> String {
    let template = Template::parse(source, &special()).unwrap();
    let rendered = template.render(conversation, &options()).unwrap();
    let mut out = String::new();
    let mut from = 0;
    for &(start, end) in rendered.input() {
        out += &rendered.text()[from..start];
        out += &format!("[{}]", &rendered.text()[start..end]);
        from = end;
    }
    out + &rendered.text()[from..]
}

#[test]
fn what_came_from_the_conversation_stays_marked() {
    let conversation = chat(
        r#"{"messages": [{"role": "user", "content": " <s>ab</s> "}, {"role": "<s>", "content": "x"}],
            "tools": [{"name": "f<s>", "p": {"k</s>": ["q\n", 1]}}]}"#,
    );
    for (source, shown) in [
        (
            "{{ bos_token + messages[0].content|trim + eos_token }}",
            "<s>[<s>ab</s>]</s>",
        ),
        (
            "{{ '<|' + messages[0].role + '|><|' + messages[1].role + '|>' }}",
            "<|user|><|[<s>]|>",
        ),
        (
            "{{ tools[0]|tojson }}",
            "{\"[name]\": \"[f<s>]\", \"[p]\": {\"[k</s>]\": [\"[q\\n]\", 1]}}",
        ),
        ("{{ tools[0].p }}", "{'[k</s>]': ['[q\\n]', 1]}"),
        (
            "{{ messages[0].content.replace('a', '<s>').upper() }}",
            "[ <S>]<S>[B</S> ]",
        ),
        (
            "{{ messages[0].content.split('<s>')[1] ~ '<s>' }}",
            "[ab</s> ]<s>",
        ),
        (
            "{{ messages[0].content[::-1] }}|{{ messages[0].content|list|join('.') }}",
            "[ >s/<ba>s< ]|[ ].[<].[s].[>].[a].[b].[<].[/].[s].[>].[ ]",
        ),
        (
            "{{ '%s|%r' % (messages[1].content, messages[1].content) }}{{ '{}'.format(messages[1].content) }}",
            "[x]|'[x]'[x]",
        ),
        (
            "{% set x %}<s>{{ messages[1].content }}{% endset %}{{ x|indent }}{{ messages[1].content.center(3, '*') }}",
            "<s>[x]*[x]*",
        ),
        (
            "{{ messages|map(attribute='content')|join(eos_token) }}",
            "[ <s>ab</s> ]</s>[x]",
        ),
        (
            "{{ messages[1].content|escape }}{{ messages[0].content|title }}",
            "[x <S>ab</s> ]",
        ),
    ] {
        assert_eq!(marks(source, &conversation), shown, "{source}");
    }
}

#[test]
fn further_variables_hide_others() {
    let template = Template::parse(
        "{{ enable_thinking }}{{ bos_token }}{{ range }}",
        &special(),
    )
    .unwrap();
    let mut options = options();
    options.args = vec![
        ("enable_thinking".to_owned(), Json::Bool(false)),
        ("bos_token".to_owned(), Json::from("B")),
        ("range".to_owned(), Json::List(vec![Json::Float(1.5)])),
    ];
    let conversation = Conversation::of_prompt(Some("s"), "u");
    let rendered = template.render(&conversation, &options).unwrap();
    assert_eq!(rendered.text(), "FalseB[1.5]");
    assert_eq!(rendered.input(), [(5, 6)]);
}

#[test]
fn conversations_from_json() {
    let keys = chat(r#"[{"role": "user", "content": "x", "z": 1, "a": {"y": 1, "b": 2}, "z": 3}]"#);
    assert_eq!(
        marks("{{ messages[0]|tojson }}", &keys).replace(['[', ']'], ""),
        r#"{"role": "user", "content": "x", "z": 3, "a": {"y": 1, "b": 2}}"#
    );
    for (wrong, part) in [
        ("", "EOF"),
        ("{}", "\"messages\""),
        ("5", "\"messages\""),
        (r#"{"messages": {}}"#, "not a list"),
        (
            r#"{"messages": [], "modle": "x"}"#,
            "\"modle\" is not known",
        ),
        (r#"[{"content": "x"}]"#, "message 0 has no role"),
        (r#"[5]"#, "message 0 has no role"),
    ] {
        let e = Conversation::from_json(wrong.as_bytes()).unwrap_err();
        assert_eq!(e.exit_code(), 3);
        assert!(e.to_string().contains(part), "{e}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        Conversation::from_json(deep.as_bytes())
            .unwrap_err()
            .exit_code(),
        3
    );
}

#[test]
fn templates_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Template>();
}

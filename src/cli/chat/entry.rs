//! What a person types at once: several lines make one entry where a line ends in `\` or a block stands in `"""`; a `/` begins a command.

use std::path::PathBuf;

/// Begins and ends a block.
const QUOTES: &str = "\"\"\"";

/// What `/help` prints.
pub const HELP: &str = "\
/system TEXT   set the system prompt (without TEXT: show it; \"\": none)
/reset         forget the conversation, not the system prompt
/save FILE     write the conversation as JSON (/save! replaces a file)
/load FILE     go on with a conversation from a file
/regen         answer the last message again
/stats         tokens, reused tokens and speed of the last answer
/help          this list
/quit          leave (also Ctrl-D)
A line that ends in \\ goes on in the next one; \"\"\" begins and ends a block of lines; pasted lines stay together.
// at the beginning stands for a text that begins with /. Ctrl-C stops an answer, or clears the line.";

/// The names that complete after `/`.
pub const NAMES: [&str; 8] = [
    "/help", "/load", "/quit", "/regen", "/reset", "/save", "/stats", "/system",
];

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Show the system prompt, or set it; an empty one is none.
    System(Option<String>),
    /// Forget the conversation.
    Reset,
    /// Write it to a file, which may replace another one.
    Save(PathBuf, bool),
    /// Read it from a file.
    Load(PathBuf),
    /// Answer again.
    Regen,
    /// Show what the last answer took.
    Stats,
    /// Show the commands.
    Help,
    /// Leave.
    Quit,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing but white space.
    Nothing,
    /// A message.
    Message(String),
    /// A command.
    Command(Command),
    /// Something that looks like a command and is none; what is wrong with it.
    Wrong(String),
}

/// Whether more lines belong to the entry that begins like this.
pub fn is_open(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(block) => !block.trim_end().ends_with(QUOTES),
        None => ends_in_backslash(text),
    }
}

/// Two backslashes are none: they are a text that ends in backslashes.
fn ends_in_backslash(text: &str) -> bool {
    let backslashes = text.bytes().rev().take_while(|&b| b == b'\\').count();
    backslashes % 2 == 1
}

/// What a whole entry means.
pub fn parse(text: &str) -> Entry {
    if text.trim().is_empty() {
        return Entry::Nothing;
    }
    if let Some(command) = text.strip_prefix('/') {
        return match command.starts_with('/') {
            true => Entry::Message(unfold(command)),
            false => parse_command(command),
        };
    }
    match unfold(text) {
        text if text.trim().is_empty() => Entry::Nothing,
        text => Entry::Message(text),
    }
}

/// The text without the marks that held its lines together.
fn unfold(text: &str) -> String {
    let block = text
        .trim()
        .strip_prefix(QUOTES)
        .and_then(|block| block.strip_suffix(QUOTES));
    if let Some(block) = block {
        let block = block.strip_prefix('\n').unwrap_or(block);
        return block.strip_suffix('\n').unwrap_or(block).to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        match lines.peek() {
            Some(_) if ends_in_backslash(line) => out.push_str(&line[..line.len() - 1]),
            _ => out.push_str(line),
        }
        if lines.peek().is_some() {
            out.push('\n');
        }
    }
    out
}

fn parse_command(text: &str) -> Entry {
    let (name, rest) = match text.split_once(char::is_whitespace) {
        Some((name, rest)) => (name, rest.trim()),
        None => (text, ""),
    };
    let file = || match rest {
        "" => Err(format!("/{name} needs the name of a file")),
        path => Ok(expand(path, std::env::var_os("HOME").map(PathBuf::from))),
    };
    let command = match name {
        "system" => Ok(Command::System(match rest {
            "" => None,
            "\"\"" => Some(String::new()),
            text => Some(unfold(text)),
        })),
        "save" => file().map(|path| Command::Save(path, false)),
        "save!" => file().map(|path| Command::Save(path, true)),
        "load" => file().map(Command::Load),
        "reset" | "regen" | "stats" | "help" | "quit" | "exit" if !rest.is_empty() => {
            Err(format!("/{name} takes nothing after it"))
        }
        "reset" => Ok(Command::Reset),
        "regen" => Ok(Command::Regen),
        "stats" => Ok(Command::Stats),
        "help" => Ok(Command::Help),
        "quit" | "exit" => Ok(Command::Quit),
        _ => Err(format!(
            "there is no command {:?}: /help lists them, // begins a text with /",
            format!("/{name}")
        )),
    };
    match command {
        Ok(command) => Entry::Command(command),
        Err(message) => Entry::Wrong(message),
    }
}

/// `~/x` in the home folder, as a shell has it.
fn expand(path: &str, home: Option<PathBuf>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Entry {
        Entry::Message(text.to_owned())
    }

    #[test]
    fn lines_that_belong_together() {
        for open in [
            "a\\",
            "\"\"\"",
            "\"\"\"a\n\"\"\"b",
            " \"\"\"x\n",
            "a\nb\\",
            "\\\\\\",
        ] {
            assert!(is_open(open), "{open:?}");
        }
        for whole in [
            "a",
            "a\\\\",
            "\"\"\"a\"\"\"",
            "\"\"\"a\nb\"\"\" ",
            "a\\\nb",
            "say \"\"\"",
            "",
        ] {
            assert!(!is_open(whole), "{whole:?}");
        }
        assert_eq!(parse("a\\\nb\\\n c"), message("a\nb\n c"));
        assert_eq!(parse("a\\\\\nb\\\\"), message("a\\\\\nb\\\\"));
        assert_eq!(parse("end\\"), message("end\\"));
        assert_eq!(parse("\"\"\"\n a\\\n/b\n\n\"\"\""), message(" a\\\n/b\n"));
        assert_eq!(parse("\"\"\"one\"\"\""), message("one"));
        assert_eq!(parse("pasted\nlines"), message("pasted\nlines"));
        for nothing in ["", "  \n", "\"\"\" \"\"\"", "\"\"\"\"\"\""] {
            assert_eq!(parse(nothing), Entry::Nothing, "{nothing:?}");
        }
    }

    #[test]
    fn commands_and_what_is_none() {
        let command = |text: &str| match parse(text) {
            Entry::Command(command) => command,
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(command("/system"), Command::System(None));
        assert_eq!(
            command("/system be brief "),
            Command::System(Some("be brief".into()))
        );
        assert_eq!(
            command("/system \"\""),
            Command::System(Some(String::new()))
        );
        assert_eq!(
            command("/system a\\\nb"),
            Command::System(Some("a\nb".into()))
        );
        assert_eq!(
            command("/save a b.json"),
            Command::Save("a b.json".into(), false)
        );
        assert_eq!(command("/save! x"), Command::Save("x".into(), true));
        assert_eq!(command("/load x"), Command::Load("x".into()));
        assert_eq!(command("/exit"), Command::Quit);
        for (text, part) in [
            ("/nonsense", "\"/nonsense\""),
            ("/save", "name of a file"),
            ("/load  ", "name of a file"),
            ("/quit now", "nothing after"),
            ("/\u{1b}[2J", "\\u{1b}"),
        ] {
            match parse(text) {
                Entry::Wrong(why) => assert!(why.contains(part), "{why}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        assert_eq!(parse("//usr/bin"), message("/usr/bin"));
        assert_eq!(parse(" /usr/bin"), message(" /usr/bin"));
        for name in NAMES {
            assert!(!matches!(parse(&format!("{name} x")), Entry::Message(_)));
            assert!(HELP.contains(name));
        }
        let home = Some(PathBuf::from("/home/x"));
        assert_eq!(expand("~/a", home.clone()), PathBuf::from("/home/x/a"));
        assert_eq!(expand("~a", home), PathBuf::from("~a"));
    }
}

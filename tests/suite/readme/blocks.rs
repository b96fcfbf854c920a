//! The fenced blocks of a page, and what is to be done with each. None is passed over: what is not run is named below,
//! with the reason, and checked in the way that its language allows.

/// A fenced block.
pub struct Block {
    pub page: String,
    pub line: usize,
    /// What stands behind the fence: `sql`, `sql cron`, `sh`, ...
    pub kind: String,
    pub code: String,
    /// The result that is shown: a block of text right after it.
    pub shown: Option<String>,
}

/// What becomes of a block.
#[derive(Debug, PartialEq)]
pub enum Fate {
    /// By psql.
    Sql,
    /// The same, where the extension is there that it is about.
    SqlWith(&'static str),
    /// By psql; it fails, as the page shows.
    SqlFails,
    Shell,
    Python,
    JavaScript,
    /// By the test of this name.
    Elsewhere(&'static str),
    /// SQL that would take more than a database of its own, or take too much of it: PostgreSQL parses it.
    SqlParses,
    /// Every name in it is a setting.
    Settings,
    /// It cannot run in a test, for this reason. Its syntax is checked as far as that goes.
    NotRun(&'static str),
}

/// Blocks that another test runs: the page, the language, and the test.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("docs/guides/supabase.md", "js", "rest::the_examples_in_javascript_run"),
    ("docs/tutorials/supabase.md", "js", "rest::the_page_of_the_tutorial_chats"),
    ("docs/guides/console.md", "js", "front::console_walks"),
];

/// Languages, and programs of the shell, that no test runs, and why.
const LANGUAGES: &[(&str, &str)] = &[
    ("nginx", "it takes nginx"),
    ("yaml", "it is for Docker or Kong"),
    ("html", "a browser shows it, to a script that another test runs"),
];
const PROGRAMS: &[(&str, &str)] = &[
    ("make", "it builds and installs"),
    ("sudo", "it changes the machine"),
    ("apt", "it changes the machine"),
    ("docker", "Docker is not where the tests run"),
    ("git", "it takes a repository from elsewhere"),
];

/// Blocks of text that are neither a result, nor settings, nor SQL: the page, how the block begins, and what it is.
const TEXTS: &[(&str, &str, &str)] = &[
    ("README.md", "   psql, drivers", "a picture"),
    ("docs/explain/architecture.md", " a session (backend process)", "a picture"),
    ("docs/explain/security.md", " argument of save_provider_key", "a picture"),
    ("docs/guides/http.md", "llm.example.com {", "it takes Caddy"),
    ("docs/operate/gateways.md", "pg_basebackup ", "gateways::standby makes one so"),
];

/// With what SQL begins that is shown, and not run.
const STATEMENTS: [&str; 9] = [
    "SELECT ", "CREATE ", "ALTER ", "DROP ", "GRANT ", "REINDEX ", "VACUUM ", "UPDATE ", "DELETE ",
];

impl Block {
    pub fn place(&self) -> String {
        format!("{}:{} ({})", self.page, self.line, self.kind)
    }

    pub fn fate(&self) -> Fate {
        let elsewhere =
            ELSEWHERE.iter().find(|(page, kind, _)| *page == self.page && *kind == self.kind);
        if let Some((.., test)) = elsewhere {
            return Fate::Elsewhere(test);
        }
        let begins = |line: &str, program: &str| line.split(' ').next() == Some(program);
        let program = PROGRAMS.iter().filter(|_| self.kind == "sh").find(|(program, _)| {
            self.code.split(['\n', '&', '|']).any(|line| begins(line.trim(), program))
        });
        let language = LANGUAGES.iter().find(|(language, _)| *language == self.kind);
        if let Some((_, why)) = program.or(language) {
            return Fate::NotRun(why);
        }
        match self.kind.as_str() {
            "sql" => Fate::Sql,
            "sql cron" => Fate::SqlWith("CRON"),
            "sql vector" => Fate::SqlWith("VECTOR"),
            "sql error" => Fate::SqlFails,
            "sh" => Fate::Shell,
            "python" => Fate::Python,
            "js" => Fate::JavaScript,
            "ini" => Fate::Settings,
            "text" => self.of_text(),
            _ => panic!("{} is of a language that nothing runs or checks", self.place()),
        }
    }

    /// What stands in a block of text that is no result.
    fn of_text(&self) -> Fate {
        let listed = TEXTS.iter().find(|(page, begins, _)| self.is(page, begins));
        let mut lines = self.code.lines().filter(|line| !line.is_empty());
        if let Some((.., why)) = listed {
            Fate::NotRun(why)
        } else if self.page.starts_with("docs/reference/") {
            Fate::Elsewhere("documented")
        } else if STATEMENTS.iter().any(|word| self.code.starts_with(word)) {
            Fate::SqlParses
        } else if lines
            .all(|line| line.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')))
        {
            Fate::Settings
        } else {
            panic!(
                "{} is neither a result (which stands right after what gives it), nor settings, nor SQL, nor \
                 listed in tests/suite/readme/blocks.rs",
                self.place()
            )
        }
    }

    fn is(&self, page: &str, begins: &str) -> bool {
        self.page == page && self.code.starts_with(begins)
    }
}

/// Whether each line of that list still means a block.
pub fn all_are_meant(blocks: &[Block]) {
    for (page, begins, _) in TEXTS {
        assert!(blocks.iter().any(|block| block.is(page, begins)), "{page} has no block {begins}");
    }
    for (page, kind, _) in ELSEWHERE {
        let is_there = blocks.iter().any(|block| block.page == *page && block.kind == *kind);
        assert!(is_there, "{page} has no block of {kind}");
    }
}

/// The blocks of a page, in their order. No fence is left over.
pub fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = vec![];
    let mut open: Option<Block> = None;
    let mut indent = 0;
    // Whether nothing has been said since the last block.
    let mut is_next = false;
    for (number, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(kind)) => {
                indent = line.len() - line.trim_start().len();
                open = Some(Block {
                    page: page.to_owned(),
                    line: number + 1,
                    kind: kind.trim().to_owned(),
                    code: String::new(),
                    shown: None,
                });
            }
            (None, None) => is_next &= line.trim().is_empty(),
            (Some(_), Some(rest)) => {
                assert_eq!(rest, "", "{page}:{}", number + 1);
                let block = open.take().expect("a block is open");
                match found.last_mut() {
                    Some(last) if is_next && block.kind == "text" && last.shown.is_none() => {
                        last.shown = Some(block.code);
                        is_next = false;
                    }
                    _ => {
                        is_next = !matches!(block.kind.as_str(), "text" | "ini");
                        found.push(block);
                    }
                }
            }
            (Some(block), None) => {
                block.code.push_str(line.get(indent..).unwrap_or(line.trim_start()));
                block.code.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{page}: a block is not closed");
    found
}

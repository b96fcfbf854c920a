//! The page of usage_dashboard, in a browser.

use crate::bed::{self, failure, rows, shared, value, var};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_postgres::Client;

/// Names that are code where they are not escaped.
const HOSTILE: [&str; 4] = [
    "<script>document.title='run'</script>",
    "\"><img src=x onerror=\"document.title='run'\">",
    "'><svg onload='document.title=\"run\"'>",
    "</style></title>&lt;&amp;<b>",
];

/// Usage of some models over a month: all kinds of status, and one model without a price.
async fn usage(root: &Client) {
    for (i, model) in HOSTILE
        .iter()
        .chain(&[
            "openai/gpt-4o-mini",
            "a-very-long-name/of-a-model-that-nobody-would-type-in-full-0123456789",
        ])
        .enumerate()
    {
        let model = bed::quoted(model);
        root.batch_execute(&format!(
            "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status,
                latency_ms, prompt_tokens, completion_tokens, total_tokens, cost_estimate, cost_source, error_code)
             SELECT gen_random_uuid(), 1, now() - n * interval '97 minutes', 1, p.id, CASE n % 2 WHEN 0 THEN 'u-a' ELSE {model} END, {model},
                CASE n % 9 WHEN 0 THEN 'error' WHEN 1 THEN 'cancelled' ELSE 'success' END,
                200 + n * 7, n * 11, n * 3, n * 14,
                CASE WHEN {i} > 0 THEN n * 0.000131 END, CASE WHEN {i} > 0 THEN 'computed' ELSE 'unpriced' END,
                CASE WHEN n % 18 = 0 THEN 'unreachable' WHEN n % 9 = 0 THEN 'bad' END
             FROM generate_series(0, {}) AS n, api_providers AS p WHERE p.name = 'openrouter'",
            400 / (i + 1)
        ))
        .await
        .unwrap();
    }
}

/// What follows `id="..."` up to `</div>`, and the first number in it that is kept whole.
fn card(page: &str, id: &str) -> String {
    let from = page.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {page}"));
    let value = &page[from..];
    let value = &value[value.find("<data value=\"").expect("a figure") + 13..];
    value[..value.find('"').unwrap()].to_owned()
}

#[tokio::test]
async fn the_page_shows_what_the_reports_say_and_nothing_in_it_is_code() {
    let database = bed::database().await;
    let root = database.root().await;
    usage(&root).await;
    // At one time: the page and the reports are of the same hour.
    root.batch_execute("BEGIN").await.unwrap();
    for range in ["day", "week", "month"] {
        let page = value(&root, &format!("SELECT usage_dashboard('{range}')")).await.unwrap();
        let summary = rows(
            &root,
            &format!("SELECT total_tokens, total_cost, requests, unpriced_requests, errors, trim_scale(avg_latency_ms) FROM usage_summary('{range}')"),
        )
        .await;
        let shown = ["tokens", "cost", "requests", "unpriced", "errors", "latency"]
            .map(|id| card(&page, id))
            .join("|");
        assert_eq!(shown, summary[0], "{range}");
        // Every bar, and every model.
        let bars = rows(&root, &format!("SELECT format('%s tokens, %s requests, %s', tokens, requests,
                coalesce('$' || cost, 'unpriced') || CASE WHEN cost IS NOT NULL AND unpriced_requests > 0 THEN format(' and %s unpriced requests', unpriced_requests) ELSE '' END)
             FROM usage_over_time('{range}')")).await;
        assert_eq!(page.matches("<title>").count(), bars.len() + 1);
        for bar in bars {
            assert!(page.contains(&bar), "{range}: {bar}");
        }
        assert_eq!(page.matches("<th scope=\"row\">").count(), 10, "{range}");
        for what in ["<script", "<img", "<svg onload", "http:", "https:", "url(", "src="] {
            let page = page.replace("&lt;", "");
            assert!(
                !page.contains(what) || what == "src=" && !page.contains("<img"),
                "{range}: {what}"
            );
        }
        for name in HOSTILE {
            let escaped = name
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;")
                .replace('\'', "&#39;");
            assert!(page.contains(&format!("<span class=\"name\">{escaped}</span>")), "{name}");
        }
    }
}

#[tokio::test]
async fn users_see_their_own_page() {
    let database = bed::database().await;
    let root = database.root().await;
    usage(&root).await;
    let a = database.rest("authenticated", Some("u-a")).await;
    let page = value(&a, "SELECT usage_dashboard('month')").await.unwrap();
    let own =
        value(&root, "SELECT requests FROM usage_summary('month', NULL, 'u-a')").await.unwrap();
    assert_eq!(card(&page, "requests"), own);
    assert!(page.contains("Last 30 days · u-a"), "{page}");
    assert_eq!(
        value(&a, "SELECT usage_dashboard('month', 'openrouter', 'u-a')")
            .await
            .map(|p| card(&p, "requests")),
        Some(own)
    );
    assert_eq!(failure(&a, "SELECT usage_dashboard('month', NULL, 'u-b')").await.0, "PT403");
    // A user whose name is code.
    let hostile = database.rest("authenticated", None).await;
    let _ = hostile;
    let page =
        value(&root, &format!("SELECT usage_dashboard('week', NULL, {})", bed::quoted(HOSTILE[0])))
            .await
            .unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script"), "{page}");
    let nobody = database.rest("authenticated", Some("nobody")).await;
    let empty = value(&nobody, "SELECT usage_dashboard()").await.unwrap();
    assert!(empty.contains("Nothing yet") && !empty.contains("<svg"), "{empty}");
}

#[tokio::test]
async fn the_type_of_pages_is_reused_and_left_behind_or_goes_with_the_extension() {
    const TYPES: &str =
        "SELECT typnamespace::regnamespace FROM pg_type WHERE typname = 'text/html'";
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    root.batch_execute("CREATE DOMAIN \"text/html\" AS text; CREATE SCHEMA own; CREATE EXTENSION aggregator SCHEMA own").await.unwrap();
    assert_eq!(rows(&root, TYPES).await, ["public"]);
    assert_eq!(
        value(&root, "SELECT pg_typeof(own.usage_dashboard('day'))").await.unwrap(),
        "\"text/html\""
    );
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    assert_eq!(rows(&root, TYPES).await, ["public"]);
    root.batch_execute("DROP DOMAIN \"text/html\"; CREATE EXTENSION aggregator SCHEMA own")
        .await
        .unwrap();
    assert_eq!(rows(&root, TYPES).await, ["own"]);
    // Whoever writes a page of their own may use it.
    root.batch_execute("GRANT CREATE, USAGE ON SCHEMA own TO alice").await.unwrap();
    let alice = database.user("alice").await;
    alice.batch_execute("CREATE FUNCTION own.page() RETURNS own.\"text/html\" LANGUAGE sql AS 'SELECT ''<p>'''; DROP FUNCTION own.page()").await.unwrap();
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    assert_eq!(rows(&root, TYPES).await, Vec::<String>::new());
}

/// Runs the browser with these arguments and gives back what it writes.
fn browser(chromium: &str, profile: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(chromium);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments);
    String::from_utf8_lossy(&bed::run(&mut command).stdout).into_owned()
}

#[tokio::test]
async fn a_browser_shows_it() {
    let chromium = var("AGGREGATOR_CHROMIUM");
    if chromium.is_empty() {
        // tools/test.sh says so where it is seen.
        crate::supabase::skipped("there is no chromium here");
        return;
    }
    let database = bed::database().await;
    let root = database.root().await;
    usage(&root).await;
    root.batch_execute("BEGIN").await.unwrap();
    let page = value(&root, "SELECT usage_dashboard('week')").await.unwrap();
    let dir = std::env::temp_dir().join(format!("aggregator-page-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, html: &str| {
        let file = dir.join(name);
        std::fs::write(&file, html).unwrap();
        format!("file://{}", file.display())
    };
    let profile = dir.join("profile");
    // Without its policy, so that escaping alone is what keeps code from running.
    let policy = page
        .find("<meta http-equiv")
        .map(|at| &page[at..at + page[at..].find('>').unwrap() + 1])
        .expect("a policy");
    let bare = page.replace(policy, "");
    for (name, html) in [("page.html", &page), ("bare.html", &bare)] {
        let dom = browser(&chromium, &profile, &["--dump-dom", &write(name, html)]);
        assert!(dom.contains("<title>Usage · Last 7 days"), "a script ran: {dom}");
        for (id, column) in [
            ("tokens", "total_tokens"),
            ("cost", "total_cost"),
            ("requests", "requests"),
            ("unpriced", "unpriced_requests"),
            ("latency", "trim_scale(avg_latency_ms)"),
        ] {
            let sql = format!("SELECT {column} FROM usage_summary('week')");
            assert_eq!(Some(card(&dom, id)), value(&root, &sql).await, "{id}");
        }
    }
    // The same browser does run what is not escaped.
    let hostile =
        bare.replace("&lt;script&gt;document.title=&#39;run&#39;&lt;/script&gt;", HOSTILE[0]);
    let dom = browser(&chromium, &profile, &["--dump-dom", &write("hostile.html", &hostile)]);
    assert!(dom.contains("<title>run</title>"), "{dom}");
    // On a phone nothing sticks out.
    let phone = write(
        "phone.html",
        "<body style='margin:0'><iframe src='page.html' style='border:0;width:390px;height:1500px'></iframe>
         <script>onload = () => { const page = frames[0].document.documentElement;
             document.body.dataset.width = page.scrollWidth + ' of ' + page.clientWidth }</script>",
    );
    let dom =
        browser(&chromium, &profile, &["--allow-file-access-from-files", "--dump-dom", &phone]);
    assert!(dom.contains("data-width=\"390 of 390\""), "{dom}");
    // For people to look at.
    let pictures = PathBuf::from(var("AGGREGATOR_TREE")).join(".build/dashboard");
    std::fs::create_dir_all(&pictures).unwrap();
    let page = write("page.html", &page);
    for (name, url, arguments) in [
        ("light", &page, ["--window-size=1000,1500", "--blink-settings=preferredColorScheme=1"]),
        ("dark", &page, ["--window-size=1000,1500", "--blink-settings=preferredColorScheme=0"]),
        ("phone", &phone, ["--window-size=500,1500", "--blink-settings=preferredColorScheme=1"]),
    ] {
        let picture = pictures.join(format!("{name}.png"));
        let _ = std::fs::remove_file(&picture);
        let screenshot = format!("--screenshot={}", picture.display());
        browser(&chromium, &profile, &[arguments[0], arguments[1], &screenshot, url]);
        assert!(std::fs::metadata(&picture).unwrap().len() > 20_000, "{name}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}

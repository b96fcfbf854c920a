//! Who somebody is: ids that show as another's, and roles that only call themselves authenticator.

use crate::bed::{self, Cluster, eventually, failure, nodes, quoted, rows, value};
use crate::fixtures::{HELLO, add_provider, save_key, user};
use crate::upstream::{Answer, Upstream};

#[tokio::test]
async fn a_sub_that_would_show_as_another_users_id_is_nobodys() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let victim = user(&database, "u-victim").await;
    assert_eq!(value(&victim, "SELECT aggregator_user_id()").await.unwrap(), "u-victim");
    let long = "x".repeat(256);
    for sub in [
        r#""u-victim\u0000""#,
        r#""\u0000u-victim""#,
        r#""u-\u0000victim""#,
        r#""u-victim\u200b""#,
        r#""u-victim\u202e""#,
        r#""u-victim\u00ad""#,
        r#""u-victim\n""#,
        r#""u-victim ""#,
        r#""u-victim\ufe0f""#,
        &format!("\"{long}\""),
        "1e400",
        "1.0",
        "18446744073709551617",
    ] {
        let attacker = database.user("authenticator").await;
        attacker
            .batch_execute(&format!(
                "SET ROLE authenticated; SET request.jwt.claims = '{{\"sub\": {sub}, \"role\": \"authenticated\"}}'"
            ))
            .await
            .unwrap();
        assert_eq!(value(&attacker, "SELECT aggregator_user_id()").await, None, "{sub}");
        for sql in [
            "SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)".to_owned(),
            format!("SELECT chat_complete('m', '{HELLO}')"),
            format!("SELECT chat_submit('m', '{HELLO}')"),
        ] {
            assert_eq!(failure(&attacker, &sql).await.0, "PT403", "{sub}: {sql}");
        }
        assert_eq!(rows(&attacker, "SELECT * FROM user_api_providers").await.len(), 0, "{sub}");
    }
    assert_eq!(rows(&root, "SELECT DISTINCT user_id FROM user_api_providers").await, ["u-victim"]);
    assert_eq!(upstream.chats().len(), 0);
}

#[tokio::test]
async fn an_id_that_cannot_be_seen_is_refused_wherever_it_comes_in() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let service = database.rest("service_role", None).await;
    for id in ["u\u{200b}-1", "u-1\n", "\u{202e}1-u", " u-1", "", &"x".repeat(256)] {
        let id = quoted(id);
        for sql in [
            format!("SELECT save_provider_key('standin', 'sk-good-1', {id}, false)"),
            format!("SELECT remove_provider_key('standin', {id})"),
            format!("SELECT chat_complete('m', '{HELLO}', p_user_id => {id})"),
            format!("SELECT chat_submit('m', '{HELLO}', p_user_id => {id})"),
            format!("SELECT * FROM chat_stream('m', '{HELLO}', p_user_id => {id})"),
            format!("SELECT * FROM get_user_available_models({id})"),
            format!("SELECT * FROM get_model_provider_config('m', {id})"),
            format!("SELECT * FROM calculate_provider_costs({id})"),
            format!("SELECT aggregator_check_user_id({id})"),
        ] {
            assert_eq!(failure(&service, &sql).await.0, "PT400", "{sql}");
        }
        // A setting of a superuser's: the session is nobody, not somebody who looks like another.
        root.batch_execute(&format!("SET aggregator.user_id = {id}")).await.unwrap();
        let own = value(&root, "SELECT aggregator_user_id()").await;
        assert!(own.is_none() || id == "''", "{id}: {own:?}");
        root.batch_execute("RESET aggregator.user_id").await.unwrap();
    }
    assert_eq!(value(&service, "SELECT count(*) FROM user_api_providers").await.unwrap(), "0");
    let longest = quoted(&"x".repeat(255));
    let sql = format!("SELECT save_provider_key('standin', 'sk-good-1', {longest}, false)");
    value(&service, &sql).await.unwrap();
}

/// Whoever may make roles could else make one whose claims are believed.
#[tokio::test]
async fn a_role_that_is_called_authenticator_later_is_a_stranger() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("stranger", "");
    let database = cluster.database().await;
    let root = database.root().await;
    // The roles of the workers are other tests' as well.
    nodes::stay_here(&root).await;
    add_provider(&root, &upstream).await;
    root.batch_execute(
        "CREATE ROLE maker LOGIN CREATEROLE; CREATE ROLE victim LOGIN;
         SELECT aggregator_grant('victim', 'user')",
    )
    .await
    .unwrap();
    let victim = database.user("victim").await;
    save_key(&victim, "standin", "sk-good-victim").await;
    let maker = database.user("maker").await;
    nodes::stay_here(&maker).await;
    maker
        .batch_execute(
            "CREATE ROLE authenticator LOGIN; CREATE ROLE tenants; GRANT tenants TO authenticator",
        )
        .await
        .unwrap();
    root.batch_execute("SELECT aggregator_grant('tenants', 'user')").await.unwrap();
    let claims = "SET request.jwt.claims = '{\"sub\": \"u-victim\", \"role\": \"tenants\"}'";
    let who = async |login: &str| {
        let client = database.user(login).await;
        client.batch_execute(claims).await.unwrap();
        value(&client, "SELECT aggregator_user_id()").await.unwrap()
    };
    assert_eq!(who("authenticator").await, "role:authenticator");
    // Named by the administrator, for this database; not by being a member of one that is.
    root.batch_execute(
        "GRANT USAGE ON TYPE aggregator_authenticator TO authenticator;
         CREATE ROLE member LOGIN IN ROLE authenticator",
    )
    .await
    .unwrap();
    assert_eq!(who("authenticator").await, "u-victim");
    assert_eq!(who("member").await, "role:member");
    // Dropped and made anew, it is another one.
    maker.batch_execute("CREATE ROLE third LOGIN").await.unwrap();
    root.batch_execute("DROP OWNED BY authenticator; DROP ROLE authenticator").await.unwrap();
    maker.batch_execute("CREATE ROLE authenticator LOGIN").await.unwrap();
    assert_eq!(who("authenticator").await, "role:authenticator");
    // Or for the whole server.
    cluster.configure("aggregator.trusted_authenticators = 'third'");
    cluster.reload();
    let trusted = "SHOW aggregator.trusted_authenticators";
    eventually(&root, trusted, "third").await;
    assert_eq!(who("third").await, "u-victim");
    assert_eq!(who("authenticator").await, "role:authenticator");
    cluster.configure("aggregator.trusted_authenticators = ''");
    cluster.reload();
    eventually(&root, trusted, "").await;
    // Where the role is there when the extension is created, it is believed.
    let later = cluster.database().await;
    let client = later.user("authenticator").await;
    client.batch_execute(claims).await.unwrap();
    assert_eq!(value(&client, "SELECT aggregator_user_id()").await.unwrap(), "u-victim");
}

//! The address guard: what is refused never hears from us.

use crate::bed::{Cluster, as_server, eventually, failure, run, value};
use crate::fixtures::{add_provider, chat_sql};
use crate::upstream::{Answer, Upstream};

#[tokio::test]
async fn private_addresses_are_refused_unless_allowed() {
    let proxy = Upstream::raw(|_| Answer::json(200, "{}")).await;
    let cluster = Cluster::make("guard", "");
    let through = format!("http://127.0.0.1:{}", proxy.port);
    cluster.up_with(&[
        ("http_proxy", &through),
        ("https_proxy", &through),
        ("ALL_PROXY", &through),
        ("HTTP_PROXY", &through),
    ]);
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)")
        .await
        .unwrap();
    // Allowed: it goes where it should, whatever the environment's proxy variables say.
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(upstream.chats().len(), 1);

    cluster.configure("aggregator.allow_private_networks = off");
    cluster.reload();
    eventually(&root, "SHOW aggregator.allow_private_networks", "off").await;
    // The worker hears of it too.
    let synced = "SELECT error LIKE '%refused%' FROM sync_models('standin')";
    eventually(&root, synced, "t").await;
    let port = upstream.port;
    let reached = upstream.seen().len();
    for host in [
        "http://127.0.0.1",
        "https://127.0.0.1",
        "https://2130706433",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://0.0.0.0",
        "https://localhost",
        "http://localhost",
        "https://169.254.169.254",
        "https://[64:ff9b::7f00:1]",
    ] {
        root.batch_execute(&format!(
            "UPDATE api_providers SET base_url = '{host}:{port}/v1' WHERE name = 'standin';
             SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)"
        ))
        .await
        .unwrap();
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT403", "{host}: {message}");
        assert!(message.contains("refused"), "{message}");
        let (code, _) = failure(&root, "SELECT validate_provider_key('standin')").await;
        assert_eq!(code, "PT403", "{host}");
        let error = value(&root, "SELECT error FROM sync_models('standin')").await.unwrap();
        assert!(error.contains("refused"), "{host}: {error}");
    }
    assert_eq!(upstream.seen().len(), reached);
    assert_eq!(proxy.seen().len(), 0);
    // Nothing that did not leave counts as a request.
    assert_eq!(
        value(&root, "SELECT sum(requests) FROM calculate_provider_costs(NULL)").await.unwrap(),
        "1"
    );
    // A session's SET does not reach the worker.
    assert!(root.simple_query("SET aggregator.allow_private_networks = on").await.is_err());
}

#[tokio::test]
async fn tls_is_verified_against_the_system_s_authorities() {
    let trusted = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let acceptor = |certified: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der());
        let provider = rustls::crypto::ring::default_provider();
        let config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.unwrap())
            .unwrap();
        tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config))
    };
    let good = Upstream::tls(|_| Answer::hello(), acceptor(&trusted)).await;
    let bad = Upstream::tls(|_| Answer::hello(), acceptor(&stranger)).await;

    let cluster = Cluster::make("tls", "");
    let authorities = cluster.dir.join("ca.pem");
    run(as_server("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &trusted.cert.pem()])
        .arg(&authorities));
    cluster.up_with(&[("SSL_CERT_FILE", authorities.to_str().unwrap())]);
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &good).await;
    for (upstream, expected) in [(&good, None), (&bad, Some("PT502"))] {
        root.batch_execute(&format!(
            "UPDATE api_providers SET base_url = 'https://localhost:{}/v1' WHERE name = 'standin';
             SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)",
            upstream.port
        ))
        .await
        .unwrap();
        match expected {
            None => assert!(value(&root, &chat_sql("{}")).await.unwrap().contains("hello")),
            Some(code) => {
                let (state, message) = failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
                assert_eq!(state, code, "{message}");
            }
        }
    }
    assert_eq!((good.chats().len(), bad.chats().len()), (1, 0));
}

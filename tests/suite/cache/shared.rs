//! Whose a kept answer is.

use super::{FIRST, HIT, MINUTE, counting, says};
use crate::bed::{failure, rows, value};
use crate::fixtures::{HELLO, add_named, chat_sql, ended, ready, save_key, submit, user};
use crate::upstream::Upstream;

#[tokio::test]
async fn users_never_share_an_answer_unless_an_administrator_says_so() {
    let upstream = Upstream::start(counting()).await;
    let (database, root) = ready(&upstream).await;
    let (ann, ben) = (user(&database, "ann").await, user(&database, "ben").await);
    assert_eq!(says(&ann, MINUTE).await, FIRST);
    assert_eq!(says(&ben, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&ann, MINUTE).await, HIT);
    // In a batch and as a job neither.
    let many = format!(
        "SELECT content FROM chat_many('[{{\"model\": \"m\", \"messages\": {HELLO}}}]', '{MINUTE}')"
    );
    assert_eq!(value(&ann, &many).await.unwrap(), "answer 1");
    assert_eq!(value(&ben, &many).await.unwrap(), "answer 2");
    for (client, expected) in [(&ann, "answer 1"), (&ben, "answer 2")] {
        let id = submit(client, MINUTE, "").await;
        assert_eq!(ended(client, &id).await, format!("succeeded|{expected}|1"));
        assert_eq!(
            rows(client, &format!("SELECT cost, response #>> '{{aggregator,cost_source}}' FROM chat_result('{id}')")).await,
            ["0|cached"]
        );
    }
    assert_eq!(upstream.chat_count(), 2);
    // Each sees that they have an entry, not what is in it, and nothing of others'.
    let seen = "SELECT user_id, model_id, is_shared, size > 100, expires_at > created_at FROM aggregator_cache";
    assert_eq!(rows(&ann, seen).await, ["ann|m|f|t|t"]);
    assert_eq!(rows(&ben, seen).await, ["ben|m|f|t|t"]);
    for hidden in ["answer", "print", "*"] {
        assert_eq!(
            failure(&ann, &format!("SELECT {hidden} FROM aggregator_cache")).await.0,
            "42501"
        );
    }
    assert_eq!(failure(&ann, "DELETE FROM aggregator_cache").await.0, "42501");
    let sealed =
        "SELECT count(*) FROM aggregator_cache WHERE position('answer'::bytea IN answer) > 0";
    assert_eq!(rows(&root, sealed).await, ["0"]);

    // Where the platform pays, and an administrator says so, they do.
    value(&root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    for client in [&ann, &ben] {
        value(client, "SELECT remove_provider_key('standin')").await;
    }
    assert_eq!(says(&ann, MINUTE).await, "answer 3|computed|0.00007");
    assert_eq!(says(&ben, MINUTE).await, "answer 4|computed|0.00007");
    root.batch_execute("UPDATE aggregator_models SET shares_cache = true").await.unwrap();
    assert_eq!(says(&ann, MINUTE).await, "answer 5|computed|0.00007");
    assert_eq!(says(&ben, MINUTE).await, "answer 5|cached|0");
    assert_eq!(
        rows(&root, "SELECT user_id, is_platform_key, cost_source FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1").await,
        ["ben|t|cached"]
    );
    // Who pays themselves shares nothing all the same.
    save_key(&ben, "standin", "sk-good-ben-0123456789").await;
    assert_eq!(says(&ben, MINUTE).await, "answer 6|computed|0.00007");
    assert_eq!(says(&ann, MINUTE).await, "answer 5|cached|0");
    root.batch_execute("UPDATE aggregator_models SET shares_cache = false").await.unwrap();
    value(&ben, "SELECT remove_provider_key('standin')").await;
    assert_eq!(says(&ben, MINUTE).await, "answer 4|cached|0", "his own, from before");
    assert_eq!(failure(&ann, "UPDATE aggregator_models SET shares_cache = true").await.0, "42501");
}

#[tokio::test]
async fn another_key_or_provider_answers_for_itself() {
    let upstream = Upstream::start(counting()).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    save_key(&root, "standin", "sk-good-another-0123456789").await;
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    add_named(&root, "second", "openai", &upstream.base_url(), &["m"]).await;
    save_key(&root, "second", "sk-good-second-0123456789").await;
    let second = format!(
        "SELECT chat_complete('m', '{HELLO}', '{MINUTE}', 'second') #>> '{{choices,0,message,content}}'"
    );
    assert_eq!(value(&root, &second).await.unwrap(), "answer 3");
    assert_eq!(value(&root, &second).await.unwrap(), "answer 3");
    // By whoever of those who may answer has.
    value(&root, "SELECT remove_provider_key('standin')").await;
    assert_eq!(says(&root, MINUTE).await, "answer 3|cached|0");
    // Who may not call is not answered.
    value(&root, "SELECT remove_provider_key('second')").await;
    assert_eq!(failure(&root, &chat_sql(MINUTE)).await.0, "PT404");
    save_key(&root, "second", "sk-good-second-0123456789").await;
    root.batch_execute("UPDATE aggregator_models SET is_available = false").await.unwrap();
    assert_eq!(failure(&root, &chat_sql(MINUTE)).await.0, "PT404");
    assert_eq!(upstream.chat_count(), 3);
}

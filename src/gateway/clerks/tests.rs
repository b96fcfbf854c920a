use super::*;
use crate::core::front::console::statements;
use crate::gateway::ledger::{self, Inbox};
use crate::protocol::{self, HEADER_LEN};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_millis(50);

/// Clerks that the test plays itself, and the main thread's end.
struct Bed {
    clerks: Arc<Clerks>,
    inbox: Inbox,
    path: PathBuf,
    _wake: std::os::unix::net::UnixStream,
}

impl Bed {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("clerks-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (ledger, inbox, wake) = ledger::channel().unwrap();
        let clerks = Clerks::new(ledger, Arc::default(), 7);
        clerks.listen(StdListener::bind(&path).unwrap()).unwrap();
        Self { clerks, inbox, path, _wake: wake }
    }

    fn ask(&self, user: &str, statement: &str) -> JoinHandle<Result<Outcome, Error>> {
        let principal =
            Principal { user_id: user.to_owned(), role: "r".to_owned(), is_anonymous: false };
        let statement = statements::find(statement).unwrap();
        let clerks = self.clerks.clone();
        tokio::spawn(async move { clerks.ask(statement, principal, "{}".to_owned()).await })
    }

    /// Whether one is to be started, and answers that with `there_is_room`.
    async fn starts(&self, there_is_room: bool) -> bool {
        for _ in 0..50 {
            if let Ok(Task::StartClerk(reply)) = self.inbox.tasks.try_recv() {
                self.inbox.wake.done();
                let _ = reply.send(there_is_room);
                return true;
            }
            sleep(SOON / 50).await;
        }
        false
    }

    async fn clerk(&self) -> Played {
        // On a busy machine it takes a while.
        let mut tries = 0;
        while !self.starts(true).await {
            tries += 1;
            assert!(tries < 100);
        }
        Played::connect(&self.path).await
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Played(UnixStream);

impl Played {
    async fn connect(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    async fn question(&mut self) -> Option<Question> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; protocol::body_len(header)?];
        self.0.read_exact(&mut body).await.ok()?;
        match protocol::decode(&body)? {
            Asked::Statement(question) => Some(question),
            Asked::Column(_) => None,
        }
    }

    async fn answer(&mut self, text: &str) {
        let answer = Answer::Given(text.to_owned());
        self.0.write_all(&protocol::encode(&answer)).await.unwrap();
    }
}

async fn given(asked: JoinHandle<Result<Outcome, Error>>) -> String {
    timeout(Duration::from_secs(60), asked)
        .await
        .expect("it is answered")
        .unwrap()
        .unwrap()
        .unwrap()
}

fn code(outcome: Result<Outcome, Error>) -> String {
    outcome.unwrap_err().code().to_owned()
}

#[tokio::test]
async fn a_clerk_is_started_when_it_is_needed_and_used_again() {
    let bed = Bed::new("again");
    let first = bed.ask("a", "me");
    let mut clerk = bed.clerk().await;
    let question = clerk.question().await.unwrap();
    assert_eq!((question.extension, question.statement.as_str()), (7, "me"));
    assert_eq!((question.principal.user_id.as_str(), question.arguments.as_str()), ("a", "{}"));
    clerk.answer("1").await;
    assert_eq!(given(first).await, "1");
    let second = bed.ask("b", "me");
    assert_eq!(clerk.question().await.unwrap().principal.user_id, "b");
    clerk.answer("2").await;
    assert_eq!(given(second).await, "2");
    assert_eq!(bed.clerks.count(), 1);
    // One that has gone meanwhile is not asked.
    drop(clerk);
    let third = bed.ask("a", "me");
    let mut clerk = bed.clerk().await;
    clerk.question().await.unwrap();
    clerk.answer("3").await;
    assert_eq!(given(third).await, "3");
    assert_eq!(bed.clerks.count(), 1);
}

#[tokio::test]
async fn one_that_goes_away_in_the_middle_is_an_error_and_the_next_is_asked() {
    let bed = Bed::new("gone");
    let asked = bed.ask("a", "me");
    let mut clerk = bed.clerk().await;
    clerk.question().await.unwrap();
    drop(clerk);
    assert_eq!(code(asked.await.unwrap()), "clerk_down");
    // What is no answer ends it as well.
    let asked = bed.ask("a", "me");
    let mut clerk = bed.clerk().await;
    clerk.question().await.unwrap();
    clerk.0.write_all(&[255; 64]).await.unwrap();
    assert_eq!(code(asked.await.unwrap()), "clerk_down");
    let asked = bed.ask("a", "me");
    assert!(bed.starts(false).await, "there is no slot");
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.code(), "clerk_down");
    assert!(error.hint().unwrap().contains("max_worker_processes"));
    assert_eq!(bed.clerks.count(), 0);
    let asked = bed.ask("a", "me");
    let mut clerk = bed.clerk().await;
    clerk.question().await.unwrap();
    clerk.answer("1").await;
    assert_eq!(given(asked).await, "1");
}

#[tokio::test]
async fn a_user_has_one_at_work_and_a_few_waiting() {
    let bed = Bed::new("user");
    let mut asked = vec![bed.ask("a", "me")];
    let mut clerk = bed.clerk().await;
    clerk.question().await.unwrap();
    asked.extend((0..WAITING_OF_USER).map(|_| bed.ask("a", "me")));
    sleep(SOON).await;
    assert_eq!(code(bed.ask("a", "me").await.unwrap()), "console_busy");
    assert!(!bed.starts(true).await, "the second one waits for the first");
    // Another user's is not held up.
    let other = bed.ask("b", "me");
    let mut others = bed.clerk().await;
    others.question().await.unwrap();
    others.answer("b").await;
    assert_eq!(given(other).await, "b");
    clerk.answer("0").await;
    // Whoever is idle is asked next.
    let answers = tokio::spawn(async move {
        while others.question().await.is_some() {
            others.answer("a").await;
        }
    });
    tokio::spawn(async move {
        while clerk.question().await.is_some() {
            clerk.answer("a").await;
        }
    });
    for asked in asked {
        given(asked).await;
    }
    answers.abort();
    assert!(lock(&bed.clerks.lanes).users.is_empty());
    assert_eq!(lock(&bed.clerks.lanes).count, 0);
}

#[tokio::test]
async fn four_work_at_one_time_two_of_them_with_providers_and_no_more_wait_than_there_is_room_for()
{
    let bed = Bed::new("all");
    let mut played = vec![];
    let mut asked = vec![];
    for user in ["p1", "p2", "p3"] {
        asked.push(bed.ask(user, "check-key"));
    }
    for _ in 0..MOST_ASKING {
        played.push(bed.clerk().await);
    }
    assert!(!bed.starts(true).await, "no more of them wait for providers");
    for user in ["q1", "q2"] {
        asked.push(bed.ask(user, "me"));
        played.push(bed.clerk().await);
    }
    asked.push(bed.ask("q3", "me"));
    assert!(!bed.starts(true).await);
    assert_eq!(bed.clerks.count(), MOST);
    for place in asked.len()..MOST + WAITING {
        asked.push(bed.ask(&format!("w{place}"), "me"));
    }
    sleep(SOON).await;
    assert_eq!(code(bed.ask("late", "me").await.unwrap()), "clerk_down");
    // Whoever stops waiting makes room.
    asked.pop().unwrap().abort();
    sleep(SOON).await;
    let late = bed.ask("late", "me");
    sleep(SOON).await;
    assert!(!late.is_finished());
}

#[tokio::test]
async fn whoever_stops_waiting_holds_a_clerk_until_it_has_ended() {
    let bed = Bed::new("cancelled");
    let asked = bed.ask("a", "me");
    let mut clerk = bed.clerk().await;
    clerk.question().await.unwrap();
    let next = bed.ask("a", "me");
    asked.abort();
    assert!(!bed.starts(true).await);
    // Its answer is for nobody, but ends it.
    clerk.answer("1").await;
    clerk.question().await.unwrap();
    clerk.answer("2").await;
    assert_eq!(given(next).await, "2");
}

#[tokio::test]
async fn one_that_has_nothing_to_do_is_let_go() {
    let bed = Bed::new("idle");
    let (stream, mut other) = UnixStream::pair().unwrap();
    bed.clerks.put_back(Clerk::new(stream, bed.clerks.count.clone()));
    assert_eq!(bed.clerks.count(), 1);
    let mut byte = [0; 1];
    let end = other.read(&mut byte);
    assert_eq!(timeout(Duration::from_secs(60), end).await.unwrap().unwrap(), 0);
    assert_eq!(bed.clerks.count(), 0);
    assert!(!bed.clerks.is_watched.load(Ordering::SeqCst));
}

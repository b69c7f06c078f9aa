//! Turns on a metadata service of this process.

use super::*;
use protocol::{runtime::Tasks, testing::FakeMetadata};

struct World {
    fake: FakeMetadata,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        Self { fake: FakeMetadata::new(), tasks: Tasks::default() }
    }

    async fn turn(&self, ttl: Duration) -> Turn {
        let lock = Lock::new(self.fake.service(), "backup", ttl, &self.tasks).expect("a name");
        Turn::Lock(lock.acquire("me").await.expect("ours"))
    }
}

/// What a shell script ends with in a turn.
async fn shell(script: &str, turn: &Turn) -> Option<ExitCode> {
    run("sh", &["-c".into(), script.into()], turn).await.expect("runs")
}

#[tokio::test]
async fn the_command_knows_its_token_and_its_exit_status_is_ours() {
    let world = World::new();
    let turn = world.turn(Duration::from_secs(10)).await;
    let token = turn.token().0;
    let code = shell(&format!("[ \"$MAGNETAR_TOKEN\" = {token} ] && exit 7"), &turn).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", Some(ExitCode::from(7))));
    let killed = shell("kill -9 $$", &turn).await;
    assert_eq!(format!("{killed:?}"), format!("{:?}", Some(ExitCode::from(137))));
    assert!(run("/no/such/program", &[], &turn).await.is_err_and(|e| e.to_string().contains("cannot run")));
    turn.give_up().await;
}

#[tokio::test]
async fn the_command_ends_when_the_turn_is_lost() {
    let world = World::new();
    let turn = world.turn(Duration::from_millis(200)).await;
    let session = world.fake.sessions()[0];
    let dir = tempfile::tempdir().expect("a scratch folder");
    let [begun, mark] = ["begun", "asked-to-end"].map(|name| dir.path().join(name));
    let script =
        format!("trap 'touch {}; exit' TERM; touch {}; while :; do sleep 0.01; done", mark.display(), begun.display());
    let fake = world.fake.clone();
    let (ended, ()) = tokio::join!(shell(&script, &turn), async move {
        let running = async {
            while !begun.exists() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), running).await.expect("the command runs");
        fake.expire(session);
    });
    assert!(ended.is_none(), "the turn was lost");
    assert!(mark.exists(), "it was asked, not killed");
}

#[tokio::test]
async fn whoever_does_not_want_to_wait_does_not() {
    let world = World::new();
    let _held = world.turn(Duration::from_secs(10)).await;
    let args = TurnArgs {
        who: None,
        ttl: Duration::from_secs(10),
        wait: Some(Duration::ZERO),
        connection: ClusterAddress { metadata: "127.0.0.1:1".into() },
        command: vec!["false".into()],
    };
    let lock = Lock::new(world.fake.service(), "backup", args.ttl, &world.tasks).expect("a name");
    let code = args.take("lock backup", async { lock.acquire("us").await.map(Turn::Lock) }).await.expect("an answer");
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(NOT_OURS)));
    assert!(!args.who().is_empty());
}

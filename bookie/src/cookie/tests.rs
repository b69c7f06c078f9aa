//! Every combination of what metadata and two directories can say.

use super::*;
use protocol::testing::FakeMetadata;
use tempfile::TempDir;

const CLUSTER: &str = "cluster-a";
const BOOKIE: BookieId = BookieId(3);

/// Two directories and a metadata service.
struct World {
    metadata: FakeMetadata,
    dirs: [TempDir; 2],
}

impl World {
    fn new() -> Self {
        let dir = || tempfile::tempdir().expect("a directory");
        Self { metadata: FakeMetadata::new(), dirs: [dir(), dir()] }
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.path().to_path_buf()).collect()
    }

    async fn claim(&self) -> Result<Claim, CookieError> {
        claim(&self.metadata.service(), CLUSTER, BOOKIE, self.paths()).await
    }

    /// A bookie that has started once.
    async fn settled() -> (Self, Cookie) {
        let world = Self::new();
        let claim = world.claim().await.expect("a new bookie");
        assert!(claim.is_new);
        claim.settle().expect("settled");
        (world, claim.cookie)
    }
}

#[tokio::test]
async fn a_new_bookie_gets_an_incarnation_and_keeps_it() {
    let (world, cookie) = World::settled().await;
    assert_eq!((cookie.cluster_id.as_str(), cookie.bookie), (CLUSTER, BOOKIE));
    let again = world.claim().await.expect("known");
    assert!(!again.is_new);
    assert_eq!((again.cookie, again.directories.len()), (cookie.clone(), 2));
    let gone = claim(&world.metadata.service(), CLUSTER, BookieId(4), vec![PathBuf::from("/nowhere")]).await;
    assert!(matches!(gone, Err(CookieError::Io { .. })));
}

/// What a place says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    This,
    Other,
}

#[tokio::test]
async fn only_the_same_everywhere_or_nothing_anywhere_may_start() {
    let all = [Says::Nothing, Says::This, Says::Other];
    for metadata in all {
        for first in all {
            for second in all {
                let (world, cookie) = World::settled().await;
                let other = Cookie { instance: Uuid::from_u128(1), ..cookie.clone() };
                match metadata {
                    Says::Nothing => drop(world.metadata.delete(key::cookie(BOOKIE))),
                    Says::This => {}
                    Says::Other => drop(world.metadata.put(key::cookie(BOOKIE), &other)),
                }
                for (dir, says) in world.dirs.iter().zip([first, second]) {
                    match says {
                        Says::Nothing => fs::remove_file(dir.path().join(FILE)).expect("removed"),
                        Says::This => {}
                        Says::Other => write(dir.path(), FILE, &other).expect("written"),
                    }
                }
                let may = metadata == first && first == second;
                let outcome = world.claim().await;
                assert_eq!(outcome.is_ok(), may, "metadata {metadata:?}, {first:?}, {second:?}: {outcome:?}");
            }
        }
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (world, cookie) = World::settled().await;
    let sentence = |outcome: Result<Claim, CookieError>| outcome.expect_err("refused").to_string();
    fs::remove_file(world.dirs[1].path().join(FILE)).expect("removed");
    assert!(sentence(world.claim().await).contains("Mount the disk"));

    let (world, _) = World::settled().await;
    world.metadata.delete(key::cookie(BOOKIE));
    assert!(sentence(world.claim().await).contains("the metadata it was started with"));

    let (world, _) = World::settled().await;
    world.metadata.put(key::cookie(BOOKIE), &Cookie { incarnation: Incarnation(99), ..cookie });
    assert!(sentence(world.claim().await).contains("incarnation 99"));

    let (world, _) = World::settled().await;
    let elsewhere = claim(&world.metadata.service(), "cluster-b", BOOKIE, world.paths()).await;
    assert!(matches!(elsewhere, Err(CookieError::Different { .. })));

    let world = World::new();
    fs::write(world.dirs[0].path().join("holiday.jpg"), b"x").expect("written");
    assert!(sentence(world.claim().await).contains("holiday.jpg"));
    assert_eq!(world.metadata.peek(&key::cookie(BOOKIE)), None, "nothing was registered");

    let (world, _) = World::settled().await;
    fs::write(world.dirs[0].path().join(FILE), [9, 9]).expect("written");
    assert!(matches!(world.claim().await, Err(CookieError::Unreadable { .. })));
}

#[tokio::test]
async fn harmless_files_do_not_matter() {
    let world = World::new();
    fs::create_dir(world.dirs[0].path().join("lost+found")).expect("made");
    fs::write(world.dirs[0].path().join("lock"), b"").expect("written");
    assert!(world.claim().await.is_ok());
}

#[tokio::test]
async fn a_first_start_that_was_killed_goes_on() {
    // Killed before metadata knew: begins again, with a new incarnation.
    let world = World::new();
    world.metadata.faults().push(protocol::testing::Fault::Pass);
    world.metadata.faults().push(protocol::testing::Fault::Pass);
    world.metadata.fail_next(MetadataError::Unavailable { reason: "killed".into() });
    assert!(matches!(world.claim().await, Err(CookieError::Metadata(_))));
    let claim = world.claim().await.expect("begins again");
    assert!(claim.is_new);

    // Killed after metadata knew, with the store half made.
    for dir in &world.dirs {
        fs::create_dir(dir.path().join("store")).expect("made");
    }
    let again = world.claim().await.expect("goes on");
    assert!(again.is_new);
    assert_eq!(again.cookie, claim.cookie);

    // Killed between two renames.
    fs::rename(world.dirs[0].path().join(PENDING), world.dirs[0].path().join(FILE)).expect("renamed");
    let last = world.claim().await.expect("goes on");
    assert!(last.is_new);
    last.settle().expect("settled");
    assert!(!world.claim().await.expect("settled").is_new);
}

#[tokio::test]
async fn a_pending_cookie_of_an_unknown_bookie_covers_no_files() {
    let world = World::new();
    let cookie = Cookie {
        cluster_id: CLUSTER.into(),
        bookie: BOOKIE,
        incarnation: Incarnation(1),
        instance: Uuid::from_u128(5),
    };
    write(world.dirs[0].path(), PENDING, &cookie).expect("written");
    fs::create_dir(world.dirs[0].path().join("store")).expect("made");
    assert!(matches!(world.claim().await, Err(CookieError::NotEmpty { .. })));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for() {
    let world = World::new();
    for fault in [protocol::testing::Fault::Pass, protocol::testing::Fault::Pass] {
        world.metadata.faults().push(fault);
    }
    world.metadata.faults().lose_next_answer();
    let claim = world.claim().await.expect("it did happen");
    assert!(world.metadata.peek(&key::cookie(BOOKIE)).is_some() && claim.is_new);
}

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
        let metadata = FakeMetadata::new();
        // Another bookie: what ours loses can be copied from somewhere.
        let bookie = BookieId(900);
        let other = Cookie { cluster_id: CLUSTER.into(), bookie, incarnation: Incarnation(0), instance: Uuid::nil() };
        metadata.put(key::cookie(bookie), &other);
        Self { metadata, dirs: [dir(), dir()] }
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.path().to_path_buf()).collect()
    }

    async fn claim(&self) -> Result<Claim, CookieError> {
        self.claim_with(OnEmptyDisk::Heal).await
    }

    async fn claim_with(&self, on_empty_disk: OnEmptyDisk) -> Result<Claim, CookieError> {
        let directories = self.paths();
        let applicant = Applicant { cluster_id: CLUSTER, bookie: BOOKIE, directories, on_empty_disk };
        claim(&self.metadata.service(), applicant).await
    }

    /// Loses what the directories hold.
    fn wipe(&self) {
        for dir in &self.dirs {
            for file in fs::read_dir(dir.path()).expect("readable") {
                fs::remove_file(file.expect("readable").path()).expect("removed");
            }
        }
    }

    fn registered(&self) -> Cookie {
        decode(&self.metadata.peek(&key::cookie(BOOKIE)).expect("registered").value).expect("a cookie")
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
    let (directories, bookie) = (vec![PathBuf::from("/nowhere")], BookieId(4));
    let nowhere = Applicant { cluster_id: CLUSTER, bookie, directories, on_empty_disk: OnEmptyDisk::Heal };
    let gone = claim(&world.metadata.service(), nowhere).await;
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
async fn only_the_same_everywhere_or_nothing_in_any_directory_may_start() {
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
                let before = world.metadata.peek(&key::cookie(BOOKIE));
                let is_same = metadata == first && first == second;
                let is_lost = first == Says::Nothing && second == Says::Nothing;
                let outcome = world.claim().await;
                let told = format!("metadata {metadata:?}, {first:?}, {second:?}: {outcome:?}");
                assert_eq!(outcome.is_ok(), is_same || is_lost, "{told}");
                let Ok(claim) = outcome else {
                    assert_eq!(world.metadata.peek(&key::cookie(BOOKIE)), before, "a refusal changes nothing: {told}");
                    continue;
                };
                assert_eq!(claim.is_new, is_lost, "{told}");
                assert_eq!(claim.cookie, world.registered(), "{told}");
                if is_lost {
                    assert!(claim.cookie.incarnation > cookie.incarnation, "never as the old life: {told}");
                }
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
    world.wipe();
    assert!(sentence(world.claim_with(OnEmptyDisk::Refuse).await).contains("Mount the disk"));
    assert_eq!(world.registered(), cookie, "a refusal gives nothing up");

    let (world, _) = World::settled().await;
    world.metadata.delete(key::cookie(BOOKIE));
    assert!(sentence(world.claim().await).contains("was taken out of cluster"));

    let (world, cookie_of_other) = World::settled().await;
    let elsewhere = Cookie { cluster_id: "cluster-b".into(), ..cookie_of_other };
    world.dirs.iter().for_each(|dir| write(dir.path(), FILE, &elsewhere).expect("written"));
    world.metadata.delete(key::cookie(BOOKIE));
    assert!(sentence(world.claim().await).contains("the metadata it was started with"));

    let (world, _) = World::settled().await;
    world.metadata.put(key::cookie(BOOKIE), &Cookie { incarnation: Incarnation(99), ..cookie.clone() });
    let given_up = sentence(world.claim().await);
    assert!(given_up.contains("came back with empty directories as life 99"), "{given_up}");
    assert!(given_up.contains("wipe the directory"), "{given_up}");

    let (world, _) = World::settled().await;
    world.metadata.put(key::cookie(BOOKIE), &Cookie { incarnation: Incarnation(0), ..cookie });
    assert!(matches!(world.claim().await, Err(CookieError::Different { .. })), "from the future: not explained");

    let (world, _) = World::settled().await;
    let elsewhere = Applicant {
        cluster_id: "cluster-b",
        bookie: BOOKIE,
        directories: world.paths(),
        on_empty_disk: OnEmptyDisk::Heal,
    };
    let elsewhere = claim(&world.metadata.service(), elsewhere).await;
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
    // It reads its cookie and the live record, and takes an incarnation; then it is killed.
    (0..3).for_each(|_| world.metadata.faults().push(protocol::testing::Fault::Pass));
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
    (0..3).for_each(|_| world.metadata.faults().push(protocol::testing::Fault::Pass));
    world.metadata.faults().lose_next_answer();
    let claim = world.claim().await.expect("it did happen");
    assert!(world.metadata.peek(&key::cookie(BOOKIE)).is_some() && claim.is_new);
}

#[tokio::test]
async fn a_lost_disk_begins_a_new_life_and_the_old_one_never_comes_back() {
    let (world, old) = World::settled().await;
    let kept = tempfile::tempdir().expect("a directory");
    fs::copy(world.dirs[0].path().join(FILE), kept.path().join(FILE)).expect("copied");
    world.wipe();
    let claim = world.claim().await.expect("a new life");
    assert!(claim.is_new && claim.cookie.incarnation > old.incarnation && claim.cookie.instance != old.instance);
    assert_eq!(claim.version, world.metadata.peek(&key::cookie(BOOKIE)).expect("registered").version);
    claim.settle().expect("settled");
    let again = world.claim().await.expect("known");
    assert_eq!((again.cookie, again.is_new), (claim.cookie, false));
    // The disk that was only not mounted turns up.
    fs::copy(kept.path().join(FILE), world.dirs[0].path().join(FILE)).expect("copied");
    assert!(matches!(world.claim().await, Err(CookieError::GivenUp { .. })));
}

#[tokio::test]
async fn a_new_life_that_was_killed_at_any_call_goes_on() {
    // Reads of the cookie and of the live record, the sequence, the transaction.
    for killed_at in 0..4 {
        for happened in [false, true] {
            let (world, old) = World::settled().await;
            world.wipe();
            (0..killed_at).for_each(|_| world.metadata.faults().push(protocol::testing::Fault::Pass));
            let killed = MetadataError::Unavailable { reason: "killed".into() };
            world.metadata.faults().push(match happened {
                true => protocol::testing::Fault::LoseAnswer(killed),
                false => protocol::testing::Fault::Refuse(killed),
            });
            assert!(world.claim().await.is_err(), "killed at call {killed_at}");
            let claim = world.claim().await.unwrap_or_else(|e| panic!("killed at call {killed_at}: {e}"));
            assert!(claim.is_new && claim.cookie.incarnation > old.incarnation);
            assert_eq!(claim.cookie, world.registered());
            claim.settle().expect("settled");
            assert!(!world.claim().await.expect("settled").is_new);
        }
    }
}

#[tokio::test]
async fn a_bookie_that_lives_is_not_given_up() {
    let (world, old) = World::settled().await;
    world.wipe();
    let member = BookieMember { id: BOOKIE, incarnation: old.incarnation };
    let live = BookieRecord {
        address: Some("elsewhere:9096".into()),
        ..BookieRecord::new(member, protocol::model::BookieState::Writable)
    };
    world.metadata.put(key::bookie(BOOKIE), &live);
    let told = world.claim().await.expect_err("refused").to_string();
    assert!(told.contains("lives already at elsewhere:9096"), "{told}");
    assert_eq!(world.registered(), old);
    world.metadata.delete(key::bookie(BOOKIE));
    assert!(world.claim().await.is_ok());
}

#[tokio::test]
async fn files_without_a_cookie_are_no_empty_disk() {
    let (world, old) = World::settled().await;
    world.wipe();
    fs::create_dir(world.dirs[1].path().join("store")).expect("made");
    assert!(matches!(world.claim().await, Err(CookieError::NotEmpty { .. })));
    assert_eq!(world.registered(), old);
}

#[tokio::test]
async fn the_only_bookie_does_not_throw_away_the_only_copy() {
    let (world, old) = World::settled().await;
    world.metadata.delete(key::cookie(BookieId(900)));
    world.wipe();
    let refused = world.claim().await.expect_err("refused").to_string();
    assert!(refused.contains("the only one") && refused.contains("bookie.on_empty_disk = discard"), "{refused}");
    assert_eq!(world.registered(), old, "nothing was given up");
    let new = world.claim_with(OnEmptyDisk::Discard).await.expect("as the operator says");
    assert!(new.is_new && new.cookie.incarnation > old.incarnation);
}

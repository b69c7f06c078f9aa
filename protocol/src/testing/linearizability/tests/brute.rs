//! The search against one that tries everything: every subset of the unknown writes, in every order.

use super::*;
use proptest::prelude::*;

/// Whether some order of the calls on one key explains them. Slow and simple on purpose.
fn possible(history: &[Call]) -> bool {
    let certain: Vec<_> = history.iter().filter(|c| !matches!(c.outcome, Outcome::Failed | Outcome::Unknown)).collect();
    let is_write = |call: &&Call| call.outcome == Outcome::Unknown && matches!(call.action, Action::Write { .. });
    let unknown: Vec<_> = history.iter().filter(is_write).collect();
    (0..1_u32 << unknown.len()).any(|subset| {
        let chosen = unknown.iter().enumerate().filter(|(n, _)| subset >> n & 1 == 1).map(|(_, call)| *call);
        let calls: Vec<_> = certain.iter().copied().chain(chosen).collect();
        some_order(&calls, &mut Vec::new())
    })
}

fn some_order<'a>(left: &[&'a Call], order: &mut Vec<&'a Call>) -> bool {
    if left.is_empty() {
        return explains(order);
    }
    let ends = |call: &Call| if call.outcome == Outcome::Unknown { u64::MAX } else { call.returned };
    (0..left.len()).any(|first| {
        // Nobody who is left may have been over when this one began.
        if left.iter().any(|other| ends(other) < left[first].invoked) {
            return false;
        }
        let mut rest = left.to_vec();
        order.push(rest.remove(first));
        let found = some_order(&rest, order);
        order.pop();
        found
    })
}

/// Whether calls one after the other give these answers. The versions of the writes are unknowns first.
fn explains(order: &[&Call]) -> bool {
    let mut versions: Vec<Option<u64>> = Vec::new();
    let mut holds: Option<(&Bytes, usize)> = None;
    let tell = |versions: &mut Vec<Option<u64>>, write: usize, version: Revision| {
        *versions[write].get_or_insert(version.0) == version.0
    };
    for call in order {
        if let Some(seen) = call.seen() {
            let fits = match (holds, seen) {
                (None, None) => true,
                (Some((value, write)), Some(held)) => *value == held.value && tell(&mut versions, write, held.version),
                _ => false,
            };
            let refused = match (&call.action, seen) {
                (Action::Get(_), _) => true,
                (Action::Write { when: When::Absent, .. }, seen) => seen.is_some(),
                (Action::Write { when: When::Version(version), .. }, seen) => {
                    seen.as_ref().is_none_or(|held| held.version != *version)
                }
                (Action::Write { when: When::Always, .. }, _) => false,
            };
            if !fits || !refused {
                return false;
            }
            continue;
        }
        let Action::Write { when, effects } = &call.action else { return false };
        let condition = match (when, holds) {
            (When::Always, _) | (When::Absent, None) => true,
            (When::Version(version), Some((_, write))) => tell(&mut versions, write, *version),
            (When::Absent, Some(_)) | (When::Version(_), None) => false,
        };
        if !condition {
            return false;
        }
        versions.push(if let Outcome::Written(revision) = call.outcome { Some(revision.0) } else { None });
        holds = effects[0].value.as_ref().map(|value| (value, versions.len() - 1));
    }
    let mut last = 0;
    versions.into_iter().all(|version| {
        let fits = version.is_none_or(|version| version > last);
        last = version.unwrap_or(last + 1);
        fits
    })
}

/// How one call of a random history comes about.
#[derive(Debug, Clone)]
struct Draft {
    kind: u8,
    /// Where it begins, when it takes effect and where it ends, after sorting.
    times: [u16; 3],
    /// 0 loses the answer of a write, 1 loses the write, the rest do neither.
    luck: u8,
}

fn draft() -> impl Strategy<Value = Draft> {
    (0..6_u8, any::<[u16; 3]>(), 0..8_u8).prop_map(|(kind, mut times, luck)| {
        times.sort_unstable();
        Draft { kind, times, luck }
    })
}

/// A history of a correct register: calls take effect in the middle of their times.
fn history(mut drafts: Vec<Draft>) -> Vec<Call> {
    drafts.sort_by_key(|draft| draft.times[1]);
    let mut calls = Vec::new();
    let (mut revision, mut now, mut versions): (u64, Option<Held>, Vec<u64>) = (0, None, vec![1]);
    for (number, Draft { kind, times, luck }) in drafts.into_iter().enumerate() {
        // Twice the time and a little, so that no two positions are the same.
        let at = |time: u16| u64::from(time) * 64 + number as u64;
        let times = (at(times[0]), at(times[2]) + 32);
        let client = u32::try_from(number).expect("a few");
        let when = match kind {
            0 | 1 => {
                calls.push(get(client, times, now.clone()));
                continue;
            }
            2 => When::Version(Revision(versions[usize::from(luck) % versions.len()])),
            3 => When::Absent,
            _ => When::Always,
        };
        let holds = match when {
            When::Always => true,
            When::Absent => now.is_none(),
            When::Version(version) => now.as_ref().is_some_and(|held| held.version == version),
        };
        let text = (kind != 5).then(|| value(&number.to_string()));
        let mut outcome = Outcome::Conflict(now.clone());
        if holds && luck != 1 {
            revision += 1;
            versions.push(revision);
            now = text.clone().map(|value| Held { value, version: Revision(revision) });
            outcome = Outcome::Written(Revision(revision));
        }
        let outcome = if luck < 2 { Outcome::Unknown } else { outcome };
        calls.push(write(client, times, when, vec![Effect { key: KEY.into(), value: text }], outcome));
    }
    calls
}

/// Makes one answer another one.
fn spoil(calls: &mut [Call], at: usize, how: u64) {
    if calls.is_empty() {
        return;
    }
    let seen = [None, held("0", how), held(&(how % 4).to_string(), how), held("never", how)];
    let seen = seen[usize::try_from(how % 4).expect("small")].clone();
    let at = at % calls.len();
    let call = &mut calls[at];
    call.outcome = match &call.outcome {
        Outcome::Read(_) => Outcome::Read(seen),
        Outcome::Conflict(_) => Outcome::Conflict(seen),
        Outcome::Written(revision) => Outcome::Written(Revision(revision.0.saturating_sub(how % 3))),
        Outcome::Failed | Outcome::Unknown => Outcome::Failed,
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_correct_register_is_never_accused(drafts in proptest::collection::vec(draft(), 0..40)) {
        let history = history(drafts);
        let verdict = verdict(&history);
        prop_assert!(verdict.is_ok(), "{}", verdict.expect_err("not fine"));
    }

    #[test]
    fn the_search_agrees_with_trying_everything(
        drafts in proptest::collection::vec(draft(), 0..7), at in 0..7_usize, how in 0..8_u64, spoils in any::<bool>()
    ) {
        let mut history = history(drafts);
        if spoils {
            spoil(&mut history, at, how);
        }
        let found = search::linearize(KEY, &history.iter().collect::<Vec<_>>(), CONFIGURATIONS);
        prop_assert_eq!(found.is_ok(), possible(&history), "{:?}", history);
    }
}

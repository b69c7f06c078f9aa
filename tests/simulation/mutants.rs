//! Every mutant of `protocol::mutant` is found by the simulator within 200 seeds: some seed fails with the bug and passes
//! without it.
//!
//! The seed that was first to find a mutant is tried first, so that the tests are quick. When the simulator changes, the
//! others are searched. `docs/mutants.md` says where each bug was real; `MAGNETAR_MUTANT_TABLE=` and a part of a name prints
//! how often a mutant is found.

use crate::{
    plan::Plan,
    report::{Report, Violation},
    runner,
};
use protocol::mutant::{Mutant, Mutants};
use std::collections::BTreeMap;

/// Seeds in which a mutant must be found: 1 to this.
const SEEDS: u64 = 200;

/// In which runs a mutant is hunted.
#[derive(Debug, Clone, Copy)]
enum Ground {
    /// As everything else, but every fourth seed under contention.
    Anywhere,
    /// In duels: its meeting of messages is too rare elsewhere.
    Duels,
}

/// Runs a seed.
fn run(seed: u64, ground: Ground, mutants: Mutants) -> Result<Report, Violation> {
    let plan = match ground {
        Ground::Duels => Plan::draw(seed).dueling(),
        Ground::Anywhere if seed.is_multiple_of(4) => Plan::draw(seed).contended(),
        Ground::Anywhere => Plan::draw(seed),
    };
    runner::run_plan(seed, plan, mutants, false).0
}

/// What a seed says about a mutant: the violation, unless the program fails without the bug, too.
fn finds(seed: u64, ground: Ground, mutant: Mutant) -> Option<Violation> {
    let violation = run(seed, ground, Mutants::only(mutant)).err()?;
    run(seed, ground, Mutants::NONE).is_ok().then_some(violation)
}

fn is_found(mutant: Mutant, ground: Ground, known: u64) {
    let mut seeds = std::iter::once(known).chain((1..=SEEDS).filter(|seed| *seed != known));
    let Some((seed, violation)) = seeds.find_map(|seed| Some((seed, finds(seed, ground, mutant)?))) else {
        panic!("{mutant:?} lived through {SEEDS} seeds: the simulator has lost its teeth");
    };
    println!("{mutant:?} is found by seed {seed} (known: {known}): {violation}");
}

#[test]
fn contention_and_duels_alone_break_nothing() {
    for (seed, ground) in
        (0..40).step_by(4).map(|seed| (seed, Ground::Anywhere)).chain((0..10).map(|seed| (seed, Ground::Duels)))
    {
        if let Err(violation) = run(seed, ground, Mutants::NONE) {
            panic!("seed {seed}, {ground:?}: {violation}");
        }
    }
}

/// How often a mutant is found, and as what: a line of the table of `docs/mutants.md`.
fn print_line(mutant: Mutant, ground: Ground) {
    let found = (1..=SEEDS).filter_map(|seed| Some((seed, finds(seed, ground, mutant)?.rule)));
    let found: Vec<(u64, &str)> = found.collect();
    let mut rules: BTreeMap<&str, u64> = BTreeMap::new();
    found.iter().for_each(|(_, rule)| *rules.entry(rule).or_default() += 1);
    let first = found.first().map_or(0, |(seed, _)| *seed);
    println!("| {mutant:?} | {first} | {} of {SEEDS} | {rules:?} |", found.len());
}

macro_rules! mutants {
    ($($test:ident: $mutant:ident, $ground:ident, $seed:literal;)*) => {
        $(
            #[test]
            fn $test() {
                is_found(Mutant::$mutant, Ground::$ground, $seed);
            }
        )*

        #[test]
        fn every_mutant_is_hunted() {
            assert_eq!([$(Mutant::$mutant),*], Mutant::ALL);
            if let Ok(of) = std::env::var("MAGNETAR_MUTANT_TABLE") {
                let all = [$((Mutant::$mutant, Ground::$ground)),*];
                let named = all.into_iter().filter(|(mutant, _)| format!("{mutant:?}").contains(&of));
                named.for_each(|(mutant, ground)| print_line(mutant, ground));
            }
        }
    };
}

mutants! {
    confirm_out_of_order: ConfirmOutOfOrder, Anywhere, 0;
    confirm_below_ack_quorum: ConfirmBelowAckQuorum, Anywhere, 0;
    keep_acks_of_replaced: KeepAcksOfReplaced, Anywhere, 0;
    count_acks_of_strangers: CountAcksOfStrangers, Anywhere, 45;
    fragment_after_sent: FragmentAfterSent, Anywhere, 0;
    count_acks_before_swap: CountAcksBeforeSwap, Anywhere, 8;
    go_on_after_lost_swap: GoOnAfterLostSwap, Anywhere, 10;
    take_unknown_swap_for_done: TakeUnknownSwapForDone, Anywhere, 59;
    close_over_unconfirmed: CloseOverUnconfirmed, Anywhere, 0;
    recover_below_fragment: RecoverBelowFragment, Anywhere, 83;
    read_without_fence: ReadWithoutFence, Duels, 2;
    read_from_replacements: ReadFromReplacements, Duels, 28;
    one_denial_proves_absence: OneDenialProvesAbsence, Anywhere, 12;
    silence_proves_absence: SilenceProvesAbsence, Anywhere, 94;
    skip_rewrite: SkipRewrite, Anywhere, 0;
    publish_in_recovery: PublishInRecovery, Duels, 1;
    ack_before_sync: AckBeforeSync, Anywhere, 0;
    answer_fence_before_sync: AnswerFenceBeforeSync, Anywhere, 6;
    forget_fence_at_restart: ForgetFenceAtRestart, Anywhere, 0;
    ignore_fence_of_unknown: IgnoreFenceOfUnknown, Anywhere, 3;
    forget_tombstone_at_restart: ForgetTombstoneAtRestart, Anywhere, 21;
    ignore_incarnation: IgnoreIncarnation, Anywhere, 3;
    deny_in_limbo: DenyInLimbo, Anywhere, 3;
    forget_lost_ledgers: ForgetLostLedgers, Anywhere, 8;
    confirm_in_limbo: ConfirmInLimbo, Anywhere, 3;
    go_on_after_failed_sync: GoOnAfterFailedSync, Anywhere, 4;
    ignore_watermark: IgnoreWatermark, Anywhere, 3;
    deny_damaged: DenyDamaged, Anywhere, 20;
    leave_head_behind: LeaveHeadBehind, Anywhere, 0;
    swap_unconditionally: SwapUnconditionally, Anywhere, 0;
    join_before_copy: JoinBeforeCopy, Anywhere, 6;
}

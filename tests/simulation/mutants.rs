//! Every mutant of `protocol::mutant` is found by the simulator within 200 seeds: some seed fails with the bug and passes
//! without it.
//!
//! The seed that was first to find a mutant is tried first, so that the tests are quick. When the simulator changes, the
//! others are searched. `docs/mutants.md` says where each bug was real; [`table`] prints its last columns.

use crate::{
    plan::Plan,
    report::{Report, Violation},
    runner,
};
use protocol::mutant::{Mutant, Mutants};
use std::collections::BTreeMap;

/// Seeds in which a mutant must be found: 1 to this.
const SEEDS: u64 = 200;

/// Runs a seed, under contention for every fourth.
fn run(seed: u64, mutants: Mutants) -> Result<Report, Violation> {
    let plan = Plan::draw(seed);
    let plan = if seed.is_multiple_of(4) { plan.contended() } else { plan };
    runner::run_plan(seed, plan, mutants, false).0
}

/// What a seed says about a mutant: the violation, unless the program fails without the bug, too.
fn finds(seed: u64, mutant: Mutant) -> Option<Violation> {
    let violation = run(seed, Mutants::only(mutant)).err()?;
    run(seed, Mutants::NONE).is_ok().then_some(violation)
}

fn is_found(mutant: Mutant, known: u64) {
    let mut seeds = std::iter::once(known).chain((1..=SEEDS).filter(|seed| *seed != known));
    let Some((seed, violation)) = seeds.find_map(|seed| Some((seed, finds(seed, mutant)?))) else {
        panic!("{mutant:?} lived through {SEEDS} seeds: the simulator has lost its teeth");
    };
    println!("{mutant:?} is found by seed {seed} (known: {known}): {violation}");
}

/// How often each mutant is found, and as what: the table of `docs/mutants.md`.
fn print_table() {
    for mutant in Mutant::ALL {
        let found = (1..=SEEDS).filter_map(|seed| Some((seed, finds(seed, *mutant)?.rule)));
        let found: Vec<(u64, &str)> = found.collect();
        let mut rules: BTreeMap<&str, u64> = BTreeMap::new();
        found.iter().for_each(|(_, rule)| *rules.entry(rule).or_default() += 1);
        let first = found.first().map_or(0, |(seed, _)| *seed);
        println!("| {mutant:?} | {first} | {} of {SEEDS} | {rules:?} |", found.len());
    }
}

macro_rules! mutants {
    ($($test:ident: $mutant:ident, $seed:literal;)*) => {
        $(
            #[test]
            fn $test() {
                is_found(Mutant::$mutant, $seed);
            }
        )*

        #[test]
        fn every_mutant_is_hunted() {
            assert_eq!([$(Mutant::$mutant),*], Mutant::ALL);
            if std::env::var_os("MAGNETAR_MUTANT_TABLE").is_some() {
                print_table();
            }
        }
    };
}

mutants! {
    confirm_out_of_order: ConfirmOutOfOrder, 0;
    confirm_below_ack_quorum: ConfirmBelowAckQuorum, 0;
    keep_acks_of_replaced: KeepAcksOfReplaced, 0;
    count_acks_of_strangers: CountAcksOfStrangers, 45;
    fragment_after_sent: FragmentAfterSent, 0;
    count_acks_before_swap: CountAcksBeforeSwap, 8;
    go_on_after_lost_swap: GoOnAfterLostSwap, 10;
    take_unknown_swap_for_done: TakeUnknownSwapForDone, 59;
    close_over_unconfirmed: CloseOverUnconfirmed, 0;
    recover_below_fragment: RecoverBelowFragment, 83;
    one_denial_proves_absence: OneDenialProvesAbsence, 12;
    silence_proves_absence: SilenceProvesAbsence, 94;
    skip_rewrite: SkipRewrite, 0;
    ack_before_sync: AckBeforeSync, 0;
    answer_fence_before_sync: AnswerFenceBeforeSync, 6;
    forget_fence_at_restart: ForgetFenceAtRestart, 0;
    ignore_fence_of_unknown: IgnoreFenceOfUnknown, 3;
    forget_tombstone_at_restart: ForgetTombstoneAtRestart, 21;
    ignore_incarnation: IgnoreIncarnation, 3;
    deny_in_limbo: DenyInLimbo, 3;
    forget_lost_ledgers: ForgetLostLedgers, 8;
    confirm_in_limbo: ConfirmInLimbo, 3;
    go_on_after_failed_sync: GoOnAfterFailedSync, 4;
    ignore_watermark: IgnoreWatermark, 3;
    deny_damaged: DenyDamaged, 20;
    leave_head_behind: LeaveHeadBehind, 0;
    swap_unconditionally: SwapUnconditionally, 0;
    join_before_copy: JoinBeforeCopy, 6;
}

//! One faulty machine of ten costs at most itself, and no job anything.

use trainyard_scheduler_core::Policy;
use trainyard_sim::one_faulty_of_ten::{MachineState, Outcome, run};

#[test]
fn with_one_faulty_machine_of_ten_at_least_as_much_is_done_as_nine_do_less_a_twentieth() {
    for policy in Policy::ALL {
        let nine = run(policy, MachineState::Absent, false);
        println!("{:<12} {:<13} {nine:?}", policy.name(), "nine");
        println!("{:<12} {:<13} {:?}", policy.name(), "ten", run(policy, MachineState::Healthy, false));
        for state in MachineState::FAULTY {
            let outcome @ Outcome { succeeded, failed, .. } = run(policy, state, false);
            println!("{:<12} {:<13} {outcome:?}", policy.name(), format!("{state:?}"));
            assert_eq!(failed, 0, "{} {state:?}: no job fails because of a machine", policy.name());
            assert!(succeeded * 20 >= nine.succeeded * 19, "{} {state:?}: {outcome:?}", policy.name());
        }
    }
}

#[test]
fn a_scheduler_that_closes_nothing_is_found_out_by_its_attempts() {
    let (closes, opens) =
        (run(Policy::Fair, MachineState::Crashes, false), run(Policy::Fair, MachineState::Crashes, true));
    println!("closes {closes:?}, opens at once {opens:?}");
    assert!(closes.attempts * 10 < opens.attempts * 9, "{closes:?} {opens:?}");
}

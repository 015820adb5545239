//! Which instruction sets the tests covered, and whether those that were declared are among them.

use quern_kernels::Isa;
use std::io::Write;

/// Names in a declaration such as `scalar avx2` that do not run here, each with the reason.
fn not_covered(declared: &str) -> Vec<String> {
    declared
        .split([' ', ','])
        .filter(|name| !name.is_empty())
        .filter_map(|name| quern_kernels::by_name(name).err())
        .map(|e| e.to_string())
        .collect()
}

#[test]
fn declared_instruction_sets_ran() {
    let covered: Vec<&str> = quern_kernels::supported().map(|k| k.name()).collect();
    let mut report = format!("instruction sets covered: {}", covered.join(" "));
    for isa in Isa::ALL {
        if let Some(missing) = isa.missing() {
            report += &format!("; not {} (this CPU lacks {missing})", isa.name());
        }
    }
    // Not eprintln!: the test harness would hide it, and what was not covered must be seen.
    writeln!(std::io::stderr(), "\n{report}").expect("stderr is open");
    let declared = std::env::var("QUERN_REQUIRE_ISAS").unwrap_or_default();
    let lacking = not_covered(&declared);
    assert!(
        lacking.is_empty(),
        "QUERN_REQUIRE_ISAS declares {declared:?}, but: {}",
        lacking.join("; ")
    );
}

#[test]
fn a_declaration_that_cannot_run_is_noticed() {
    assert!(not_covered("scalar").is_empty());
    assert!(not_covered("scalar,scalar").is_empty());
    assert_eq!(not_covered("scalar avx9000").len(), 1);
    for isa in Isa::ALL {
        assert_eq!(
            not_covered(isa.name()).is_empty(),
            isa.missing().is_none(),
            "{}",
            isa.name()
        );
    }
}

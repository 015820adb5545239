use super::*;

fn shape(window: Option<usize>) -> KvShape {
    KvShape {
        kv: KvType::F32,
        n_kv_heads: 2,
        key_dim: 16,
        value_dim: 16,
        window,
    }
}

#[test]
fn memory_follows_use_and_a_window_bounds_it() {
    let mut full = Sequence::new([shape(None)], &[], false);
    let mut windowed = Sequence::new([shape(Some(100))], &[], false);
    let page = shape(None).page_bytes() * 2;
    for seq in [&mut full, &mut windowed] {
        assert_eq!(seq.bytes(), 0);
        for _ in 0..1000 {
            seq.reserve(1).unwrap();
            seq.advance(&[0]);
        }
    }
    assert_eq!(full.bytes(), 16 * page);
    assert!(windowed.bytes() <= 3 * page, "{} bytes", windowed.bytes());
}

#[test]
fn forks_share_pages_until_one_writes() {
    let kernels = quern_kernels::best();
    let mut first = Sequence::new([shape(None)], &[], true);
    let page = shape(None).page_bytes() * 2;
    let write = |seq: &mut Sequence, value: f32| {
        seq.reserve(1).unwrap();
        for head in 0..2 {
            let (at, row) = (seq.len(), [value; 16]);
            seq.caches[0].write(head, |h| h.store(kernels, at, &row, &row));
        }
        seq.advance(&[value as u32]);
    };
    let read = |seq: &Sequence, at: usize| {
        let head = seq.caches[0].read(1);
        let (_, v, _) = head.span(at / TILE * TILE, seq.len());
        let row = &v[at % TILE * 64..][..4];
        f32::from_le_bytes(row.try_into().unwrap())
    };
    (0..100).for_each(|i| write(&mut first, i as f32));
    let mut second = first.fork(90).unwrap();
    let meter = first.meter.clone();
    assert_eq!(meter.bytes(), 2 * page, "nothing is copied yet");
    assert_eq!((second.len(), second.growth(1)), (90, page));
    (0..20).for_each(|i| write(&mut second, 500.0 + i as f32));
    assert_eq!(meter.bytes(), 3 * page, "the second page of two");
    assert_eq!(
        first.growth(1),
        0,
        "the first one has its page for itself again"
    );
    write(&mut first, 100.0);
    assert_eq!(
        [63, 89, 90, 100].map(|at| read(&first, at)),
        [63.0, 89.0, 90.0, 100.0]
    );
    assert_eq!(
        [63, 89, 90, 109].map(|at| read(&second, at)),
        [63.0, 89.0, 500.0, 519.0]
    );
    assert_eq!(second.ids.as_ref().unwrap()[88..92], [88, 89, 500, 501]);
    drop(first);
    assert_eq!(meter.bytes(), 2 * page);
    assert!(second.fork(0).unwrap().is_empty());
    drop(second);
    assert_eq!(meter.bytes(), 0);
}

#[test]
fn what_has_moved_on_is_forked_where_it_is_or_was_marked() {
    let state = StateShape {
        units: 1,
        unit_len: 2,
    };
    let mut seq = Sequence::new([shape(Some(100))], &[state], false);
    let value = |seq: &Sequence| seq.states[0].write(0, |values| values[1]);
    for n in 1..=200 {
        seq.reserve(1).unwrap();
        seq.states[0].write(0, |values| values[1] += 1.0);
        seq.advance(&[0]);
        if n == 190 {
            seq.mark().unwrap();
        }
    }
    assert!(seq.moves_on());
    assert_eq!(seq.fork(195).err().map(|e| e.exit_code()), Some(5));
    let (marked, now) = (seq.fork(190).unwrap(), seq.fork(200).unwrap());
    assert_eq!(
        [value(&marked), value(&now), value(&seq)],
        [190.0, 200.0, 200.0]
    );
    assert_eq!([marked.len(), now.len()], [190, 200]);
}

#[test]
fn a_window_that_moved_on_cannot_be_turned_back() {
    let mut seq = Sequence::new([shape(None), shape(Some(64))], &[], false);
    for _ in 0..300 {
        seq.reserve(1).unwrap();
        seq.advance(&[0]);
    }
    seq.truncate(299).unwrap();
    assert_eq!(seq.len(), 299);
    let bytes = seq.bytes();
    assert!(seq.truncate(100).is_err());
    assert_eq!((seq.len(), seq.bytes()), (299, bytes));
    seq.truncate(0).unwrap();
    assert_eq!((seq.len(), seq.bytes()), (0, 0));
}

#[test]
fn a_state_has_one_size_and_goes_back_to_the_beginning_only() {
    let states = [
        StateShape {
            units: 3,
            unit_len: 5,
        },
        StateShape {
            units: 1,
            unit_len: 7,
        },
    ];
    let mut seq = Sequence::new([], &states, false);
    assert_eq!(seq.bytes(), 0);
    for _ in 0..9 {
        seq.reserve(1).unwrap();
        seq.states[0].write(2, |values| values[4] += 1.0);
        seq.advance(&[0]);
        assert_eq!(seq.bytes(), 4 * (3 * 5 + 7));
    }
    assert_eq!(seq.states[0].write(2, |values| values[4]), 9.0);
    let e = seq.truncate(4).unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot go back to 4 of 9 tokens: a recurrent state has taken in the later ones"
    );
    seq.truncate(9).unwrap();
    assert_eq!(seq.len(), 9);
    seq.truncate(0).unwrap();
    assert_eq!((seq.len(), seq.bytes()), (0, 0));
    seq.reserve(1).unwrap();
    assert_eq!(seq.states[0].write(2, |values| values[4]), 0.0);
}

#[test]
fn a_state_goes_back_to_its_marks() {
    let shape = StateShape {
        units: 2,
        unit_len: 3,
    };
    let mut seq = Sequence::new([], &[shape, shape], false);
    let value = |seq: &Sequence| seq.states[1].write(1, |values| values[2]);
    seq.mark().unwrap();
    for n in 1..=9 {
        seq.reserve(1).unwrap();
        seq.states[1].write(1, |values| values[2] += 1.0);
        seq.advance(&[0]);
        if n == 3 || n == 6 {
            seq.mark().unwrap();
            seq.mark().unwrap();
        }
    }
    assert_eq!(seq.bytes(), 3 * 4 * 12, "the states and two marks");
    assert_eq!(
        [9, 8, 6, 5, 3, 2].map(|n| seq.nearest(n)),
        [9, 6, 6, 3, 3, 0]
    );
    assert!(seq.truncate(5).is_err());
    seq.truncate(6).unwrap();
    assert_eq!((seq.len(), value(&seq)), (6, 6.0));
    seq.states[1].write(1, |values| values[2] = 50.0);
    seq.advance(&[0]);
    seq.truncate(6).unwrap();
    assert_eq!(value(&seq), 6.0, "a mark stays where one goes back to it");
    seq.advance(&[0]);
    seq.truncate(3).unwrap();
    assert_eq!((seq.len(), value(&seq)), (3, 3.0));
    seq.advance(&[0, 0, 0, 0]);
    assert_eq!(seq.nearest(6), 3, "marks of what was forgotten are gone");
    seq.unmark(3);
    assert_eq!(seq.nearest(6), 0);
}

#[test]
fn a_state_too_large_for_memory_is_an_error() {
    let states = [StateShape {
        units: 1 << 20,
        unit_len: usize::MAX >> 4,
    }];
    let mut seq = Sequence::new([], &states, false);
    assert_eq!(seq.reserve(1).unwrap_err().exit_code(), 5);
    assert_eq!(seq.bytes(), 0);
}

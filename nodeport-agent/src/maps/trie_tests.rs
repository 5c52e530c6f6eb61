//! A trie in the kernel, which has operations of its own behind the same system calls.

use std::collections::BTreeMap;

use nodeport_common::{SourceRangeKey, V4};

use super::{Sources, Store as _, StoreError, real_maps};

#[test]
fn a_trie_is_read_written_and_emptied_like_a_hash_and_says_when_it_is_full() {
    let Some(mut store) = real_maps(3) else {
        return;
    };
    let key = |service: u32, bits: u32, last: u8| SourceRangeKey::<V4> {
        prefix_len: 32 + bits,
        service: service.to_be_bytes(),
        address: [10, 0, 0, last],
    };
    // One range within the other, and the same range of another service port.
    let keys = [key(1, 24, 0), key(1, 32, 7), key(2, 24, 0)];
    let entries = keys.map(|key| (key, 1));
    store.put::<Sources<V4>>(&entries).expect("they fit");
    let found = store.entries::<Sources<V4>>().expect("readable");
    let found: BTreeMap<_, _> = found.into_iter().collect();
    assert_eq!(found, entries.into_iter().collect());
    let error = store
        .put::<Sources<V4>>(&[(key(3, 0, 0), 1)])
        .expect_err("three fit");
    assert!(matches!(error.error, StoreError::Full { map: "SOURCES4" }));
    // What is not there is passed over; the wider range stays when the narrower goes.
    let gone = [key(9, 24, 0), key(1, 32, 7), key(2, 24, 0)];
    store.delete::<Sources<V4>>(&gone).expect("deleted");
    let left = store.entries::<Sources<V4>>().expect("readable");
    assert_eq!(left, [(key(1, 24, 0), 1)]);
}

//! Contexts of programs on sockets, word by word: the verifier turns each access into one of the kernel's own structures, and knows only
//! accesses of whole words at fixed places.

use core::marker::PhantomData;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};

/// A context of the kernel's type `C`.
pub(super) struct Context<'a, C> {
    pub(super) at: *mut C,
    borrowed: PhantomData<&'a ()>,
}

impl<'a> From<&'a SockAddrContext> for Context<'a, bpf_sock_addr> {
    #[inline(always)]
    fn from(context: &'a SockAddrContext) -> Self {
        Self {
            at: context.sock_addr,
            borrowed: PhantomData,
        }
    }
}

impl<'a> From<&'a SockContext> for Context<'a, bpf_sock> {
    #[inline(always)]
    fn from(context: &'a SockContext) -> Self {
        Self {
            at: context.sock,
            borrowed: PhantomData,
        }
    }
}

impl<C> Context<'_, C> {
    /// The word at an offset of a field of `C`.
    #[inline(always)]
    pub(super) fn word(&self, offset: usize) -> [u8; 4] {
        // SAFETY: callers name fields of the context by `offset_of`. The verifier refuses the program if this one may not read it.
        unsafe { self.at.byte_add(offset).cast::<u32>().read_volatile() }.to_ne_bytes()
    }

    /// The four words of an IPv6 address.
    #[inline(always)]
    pub(super) fn words(&self, offset: usize) -> [u8; 16] {
        // SAFETY: four words are sixteen bytes; any are valid.
        unsafe {
            core::mem::transmute::<[[u8; 4]; 4], [u8; 16]>([
                self.word(offset),
                self.word(offset + 4),
                self.word(offset + 8),
                self.word(offset + 12),
            ])
        }
    }

    /// Writes the word at an offset of a field of `C`.
    #[inline(always)]
    pub(super) fn set(&self, offset: usize, word: [u8; 4]) {
        let word = u32::from_ne_bytes(word);
        // SAFETY: as for `word`.
        unsafe {
            self.at.byte_add(offset).cast::<u32>().write_volatile(word);
        }
    }

    /// Writes the four words of an IPv6 address.
    #[inline(always)]
    pub(super) fn set_words(&self, offset: usize, address: [u8; 16]) {
        // SAFETY: sixteen bytes are four words; any are valid.
        let words = unsafe { core::mem::transmute::<[u8; 16], [[u8; 4]; 4]>(address) };
        let [first, second, third, fourth] = words;
        self.set(offset, first);
        self.set(offset + 4, second);
        self.set(offset + 8, third);
        self.set(offset + 12, fourth);
    }
}

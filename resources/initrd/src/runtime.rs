//! What a program without a C library must bring itself: an entry, the end of a panic, and the memory functions
//! that the compiler calls.
#![expect(unsafe_code, reason = "entry and memory functions are the bottom of the program")]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use crate::console::say;
use crate::machine;
use crate::outcome::Failure;

// Linux enters with the stack 16-byte aligned and `call` leaves it as the ABI wants it at a function's start.
global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "call {entry}", "ud2", entry = sym entry, options(att_syntax));

extern "C" fn entry() -> ! {
    crate::main()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say!("panic {}", info.message());
    machine::power_off(Failure::PANIC)
}

/// # Safety
/// `to` and `from` are valid for `count` bytes and do not overlap.
// SAFETY: no other item of the program has this name, which is the one the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise is what the instruction needs; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// `to` and `from` are valid for `count` bytes.
// SAFETY: no other item of the program has this name, which is the one the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: `to` is not inside what follows `from`, so going upwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, count) };
    }
    let last = count.wrapping_sub(1);
    // SAFETY: as the caller promised; `count` is not 0 here, and the direction flag is cleared again, as the ABI wants.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.wrapping_add(last) => _,
            inout("rsi") from.wrapping_add(last) => _, options(nostack));
    }
    to
}

/// # Safety
/// `to` is valid for `count` bytes.
// SAFETY: no other item of the program has this name, which is the one the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise is what the instruction needs; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte.to_le_bytes()[0],
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// `a` and `b` are valid for `count` bytes.
// SAFETY: no other item of the program has this name, which is the one the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: `at` is below the count that the caller promised for `a`.
        let left = unsafe { a.wrapping_add(at).read_volatile() };
        // SAFETY: `at` is below the count that the caller promised for `b`.
        let right = unsafe { b.wrapping_add(at).read_volatile() };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
/// As for `memcmp`.
// SAFETY: no other item of the program has this name, which is the one the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
/// `text` points at bytes of which one is zero.
// SAFETY: no other item of the program has this name, which is the one the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    loop {
        // SAFETY: no byte before this one was zero, so it is one of those that the caller promised.
        if unsafe { text.wrapping_add(len).read_volatile() } == 0 {
            return len;
        }
        len += 1;
    }
}

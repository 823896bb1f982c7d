//! How is the stack unwound? Not at all: what panics here aborts.
//!
//! Only in the program for an initramfs. Its standard library was compiled to unwind, and to print backtraces; for that it has an
//! unwinder and a reader of debug information, of which this program has none. These are the names by which that library and the C
//! library know the unwinder ("Exception Handling" of the Itanium C++ ABI, 1.3 to 1.6). Only [`_Unwind_Backtrace`] is ever called,
//! where `RUST_BACKTRACE` is set. It calls nobody back, and so the optimizer finds that nobody needs all the rest.
#![allow(
    unsafe_code,
    reason = "each takes a well-known name, and reads none of its arguments: what a caller passes does not matter"
)]

/// "The end of the stack is reached."
const END_OF_STACK: i32 = 5;

/// Walks up the stack: there is nobody above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace() -> i32 {
    END_OF_STACK
}

/// What is called to unwind, or by what unwinds. All names that the compiler's unwinder has in the one file with
/// [`_Unwind_Backtrace`]: were one missing, that file would be linked for it, and the others be there twice.
macro_rules! never {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> ! {
                std::process::abort()
            }
        )*
    };
}

never! {
    _Unwind_DeleteException
    _Unwind_FindEnclosingFunction
    _Unwind_ForcedUnwind
    _Unwind_GetCFA
    _Unwind_GetDataRelBase
    _Unwind_GetGR
    _Unwind_GetIP
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_RaiseException
    _Unwind_Resume
    _Unwind_Resume_or_Rethrow
    _Unwind_SetGR
    _Unwind_SetIP
    __gcc_personality_v0
}

# The fault-driver guest: touches memory at CPL3 and times every touch.
#
# Position-independent: the VMM copies what lies between the two labels at the ends into guest memory. No stack, no
# interrupts, no system registers, no SSE: nothing but loads, stores, RDTSC and LFENCE, so that it runs natively on
# every KVM at privilege level 3.
#
# RDI holds this vCPU's mailbox for ever. The VMM writes a command there and enters the guest; the guest carries it
# out, writes the results beside it and rings the doorbell: a store to an address without memory, which is an exit.
# The next entry goes on behind that store, with the next command in place.
#
#   rdi  mailbox              r8   base address         r12  touches recorded so far
#   rsi  address of a touch   r9   touches in a pass    r13  index in this pass
#   rbp  passes to go         r10  stride in bytes      r14, r15  time stamp before a touch
#                             r11  samples or histogram
#
# The offsets are those of `Mailbox` in vmm/src/driver/mailbox.rs, which a test there holds against this file.

    .set UL_OP,              0x00
    .set UL_BASE,            0x08
    .set UL_COUNT,           0x10
    .set UL_STRIDE,          0x18
    .set UL_PASSES,          0x20
    .set UL_ACCESS,          0x28
    .set UL_RECORD,          0x30
    .set UL_RECORDS,         0x38
    .set UL_BARRIER,         0x40
    .set UL_BARRIER_TARGET,  0x48
    .set UL_DOORBELL,        0x50
    .set UL_SEED,            0x58
    .set UL_PERM_MASK,       0x60
    .set UL_PERM_SHIFT,      0x68
    .set UL_PERM_MUL1,       0x70
    .set UL_PERM_MUL2,       0x78
    .set UL_PERM_ADD,        0x80
    .set UL_FIRST_TSC,       0x100
    .set UL_START_TSC,       0x108
    .set UL_END_TSC,         0x110
    .set UL_TOUCHES,         0x118
    .set UL_MAX,             0x120
    .set UL_MISMATCHES,      0x128
    .set UL_FIRST_MISMATCH,  0x130

    .set UL_PATTERN_MUL,     0x9e3779b97f4a7c15

    .section .rodata.underlay_guest, "a", @progbits
    .balign 64
    .globl underlay_guest_start
    .hidden underlay_guest_start
underlay_guest_start:
    lfence
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     [rdi + UL_FIRST_TSC], rax

.Lul_command:
    mov     r8, [rdi + UL_BASE]
    mov     r9, [rdi + UL_COUNT]
    mov     r10, [rdi + UL_STRIDE]
    mov     r11, [rdi + UL_RECORDS]
    mov     rbp, [rdi + UL_PASSES]
    xor     r12d, r12d
    xor     r13d, r13d

    # Nobody starts before everybody has arrived. The count only grows; each command has a target of its own.
    mov     rax, [rdi + UL_BARRIER]
    mov     rcx, [rdi + UL_BARRIER_TARGET]
    lock inc qword ptr [rax]
.Lul_wait:
    cmp     [rax], rcx
    jae     .Lul_arrived
    pause
    jmp     .Lul_wait
.Lul_arrived:
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     [rdi + UL_START_TSC], rax

    mov     eax, [rdi + UL_OP]
    cmp     eax, 1
    je      .Lul_touch
    cmp     eax, 2
    je      .Lul_fill
    cmp     eax, 3
    je      .Lul_verify

.Lul_done:
    lfence
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     [rdi + UL_END_TSC], rax
    mov     [rdi + UL_TOUCHES], r12
    mov     eax, [rdi + UL_OP]
    mov     rbx, [rdi + UL_DOORBELL]
    mov     [rbx], eax
    jmp     .Lul_command

# ---- touch: one timed access an index ------------------------------------------------------------------------------

.Lul_touch:
    test    r9, r9
    jz      .Lul_done
.Lul_touch_next:
    mov     rsi, r13
    mov     rdx, [rdi + UL_PERM_MASK]
    test    rdx, rdx
    jz      .Lul_address

    # A bijection of [0, mask], walked until it falls below the count: see vmm/src/driver/permutation.rs.
    mov     ecx, [rdi + UL_PERM_SHIFT]
.Lul_walk:
    imul    rsi, [rdi + UL_PERM_MUL1]
    and     rsi, rdx
    mov     rax, rsi
    shr     rax, cl
    xor     rsi, rax
    imul    rsi, [rdi + UL_PERM_MUL2]
    add     rsi, [rdi + UL_PERM_ADD]
    and     rsi, rdx
    mov     rax, rsi
    shr     rax, cl
    xor     rsi, rax
    cmp     rsi, r9
    jae     .Lul_walk

.Lul_address:
    imul    rsi, r10
    add     rsi, r8

    # Between the two time stamps stands the access and nothing else; LFENCE on either side keeps it there.
    .macro UL_BEFORE
    lfence
    rdtsc
    mov     r14, rdx
    mov     r15, rax
    lfence
    .endm
    .macro UL_AFTER
    lfence
    rdtsc
    .endm

    mov     eax, [rdi + UL_ACCESS]
    cmp     eax, 1
    je      .Lul_read
    cmp     eax, 2
    je      .Lul_read_write
    cmp     eax, 3
    je      .Lul_nothing

    UL_BEFORE
    mov     [rsi], rsi
    UL_AFTER
    jmp     .Lul_record

.Lul_read:
    UL_BEFORE
    mov     rbx, [rsi]
    UL_AFTER
    jmp     .Lul_record

.Lul_read_write:
    UL_BEFORE
    mov     rbx, [rsi]
    mov     [rsi], rbx
    UL_AFTER
    jmp     .Lul_record

.Lul_nothing:
    UL_BEFORE
    UL_AFTER

.Lul_record:
    shl     rdx, 32
    or      rax, rdx
    shl     r14, 32
    or      r15, r14
    sub     rax, r15
    cmp     rax, [rdi + UL_MAX]
    jbe     .Lul_not_max
    mov     [rdi + UL_MAX], rax
.Lul_not_max:
    mov     ecx, [rdi + UL_RECORD]
    cmp     ecx, 1
    je      .Lul_sample
    cmp     ecx, 2
    jne     .Lul_recorded

    # A log-linear histogram: 32 buckets an octave, see vmm/src/driver/histogram.rs.
    mov     rdx, rax
    cmp     rax, 64
    jb      .Lul_bucket
    bsr     rcx, rax
    sub     ecx, 5
    shr     rdx, cl
    shl     ecx, 5
    add     rdx, rcx
.Lul_bucket:
    inc     qword ptr [r11 + rdx * 8]
    jmp     .Lul_recorded

.Lul_sample:
    mov     rcx, r12
    shl     rcx, 4
    mov     [r11 + rcx], r15
    mov     [r11 + rcx + 8], rax

.Lul_recorded:
    inc     r12
    inc     r13
    cmp     r13, r9
    jb      .Lul_touch_next
    xor     r13d, r13d
    dec     rbp
    jnz     .Lul_touch_next
    jmp     .Lul_done

# ---- fill and verify: a word from its address and a seed -----------------------------------------------------------

    # rax = pattern of address rsi; clobbers rcx
    .macro UL_PATTERN
    mov     rax, rsi
    xor     rax, [rdi + UL_SEED]
    imul    rax, rbx
    mov     rcx, rax
    shr     rcx, 29
    xor     rax, rcx
    .endm

.Lul_fill:
    movabs  rbx, UL_PATTERN_MUL
    mov     rsi, r8
.Lul_fill_next:
    cmp     r12, r9
    jae     .Lul_done
    UL_PATTERN
    mov     [rsi], rax
    add     rsi, r10
    inc     r12
    jmp     .Lul_fill_next

.Lul_verify:
    movabs  rbx, UL_PATTERN_MUL
    mov     rsi, r8
.Lul_verify_next:
    cmp     r12, r9
    jae     .Lul_done
    UL_PATTERN
    cmp     [rsi], rax
    je      .Lul_verified
    cmp     qword ptr [rdi + UL_MISMATCHES], 0
    jne     .Lul_not_first
    mov     [rdi + UL_FIRST_MISMATCH], rsi
.Lul_not_first:
    inc     qword ptr [rdi + UL_MISMATCHES]
.Lul_verified:
    add     rsi, r10
    inc     r12
    jmp     .Lul_verify_next

    .purgem UL_BEFORE
    .purgem UL_AFTER
    .purgem UL_PATTERN

    .globl underlay_guest_end
    .hidden underlay_guest_end
underlay_guest_end:
    .section .text

# SPDX-License-Identifier: GPL-3.0-or-later
# The PVH entry of a stand-in, as image/pvh_wrap.py writes it in bytes: building one needs no assembler, reading it does.
# At entry (Xen's docs/misc/pvh.pandoc): 32 bits, no paging, EBX = struct hvm_start_info.
# --defsym: BASE, where this is loaded; MODLIST, PREFIX and LINE behind it; ROOM for the line; LINUX, the kernel's own entry.

.set NR_MODULES, 12
.set MODLIST_PADDR, 16
.set CMDLINE_PADDR, 24

.code32
.text
entry:
    cld
    # One module: the initramfs.
    movl    $1, NR_MODULES(%ebx)
    movl    $MODLIST, MODLIST_PADDR(%ebx)
    movl    $0, MODLIST_PADDR+4(%ebx)
    # The domain's own arguments go behind the prefix.
    movl    $LINE, %edi
    movl    CMDLINE_PADDR(%ebx), %esi
    testl   %esi, %esi
    jz      done
    movl    $(ROOM - 1), %ecx
copy:
    lodsb
    stosb
    testb   %al, %al
    loopnz  copy
    nop
done:
    movl    $PREFIX, CMDLINE_PADDR(%ebx)
    movl    $0, CMDLINE_PADDR+4(%ebx)
    movl    $LINUX, %eax
    jmp     *%eax

/* A PVH guest of our own, a few KB: it answers HTTP, DNS and ping at one IPv4 address, or ends as its boot arguments say.
 *
 * It takes the boot arguments that a MirageOS unikernel takes, refuses others as cmdliner does (a usage line, exit code 64),
 * prints what Solo5 prints when it ends, and honours Xen's shutdown request. 32-bit code without paging, one vCPU, no
 * interrupts: it sleeps in SCHEDOP_poll until an event channel has something.
 *
 * The numbers come from Xen's public headers (xen/include/public): xen.h, hvm/start_info.h, hvm/params.h, sched.h,
 * event_channel.h, grant_table.h, memory.h, io/console.h, io/xs_wire.h, io/netif.h, io/ring.h, io/xenbus.h.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#include <stddef.h>
#include <stdint.h>

#ifndef GREETING
#define GREETING "A guest of our own"
#endif

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PAGE 4096
#define PAGES(name, count) static u8 name[(count) * PAGE] __attribute__((aligned(PAGE)))
#define FRAME(pointer) ((u32)(pointer) / PAGE)
#define BARRIER() __sync_synchronize()

/* -- what the compiler may call ---------------------------------------------------------------- */

void *memcpy(void *to, const void *from, size_t size)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

void *memset(void *to, int byte, size_t size)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
    return start;
}

static size_t length(const char *text)
{
    size_t size = 0;
    while (text[size])
        size++;
    return size;
}

static int same(const char *one, const char *other, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (one[i] != other[i])
            return 0;
    return 1;
}

static int equal(const char *one, const char *other)
{
    return length(one) == length(other) && same(one, other, length(one));
}

static char *number(u32 value, char *end) /* writes backwards; returns the first digit */
{
    *end = 0;
    do
        *--end = '0' + value % 10;
    while (value /= 10);
    return end;
}

/* -- hypercalls -------------------------------------------------------------------------------- */

PAGES(hypercall_page, 1);
PAGES(shared_info, 1);
PAGES(grant_table, 1);

enum { MEMORY_OP = 12, GRANT_TABLE_OP = 20, SCHED_OP = 29, EVENT_CHANNEL_OP = 32, HVM_OP = 34 };
#define DOMID_SELF 0x7ff0

static long hypercall(u32 which, u32 first, const void *second)
{
    long result;
    void *entry = hypercall_page + which * 32;
    u32 b = first, c = (u32)second, d = 1; /* the third argument: one element, where it is asked for */
    __asm__ volatile("call *%%esi" : "=a"(result), "+b"(b), "+c"(c), "+d"(d) : "S"(entry) : "edi", "memory");
    return result;
}

static void cpuid(u32 leaf, u32 *a, u32 *b)
{
    u32 c, d;
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(c), "=d"(d) : "a"(leaf), "c"(0));
}

static void map_hypercalls(void)
{
    u32 leaf, a, b;
    for (leaf = 0x40000000; leaf < 0x40010000; leaf += 0x100) {
        cpuid(leaf, &a, &b);
        if (b == 0x566e6558) /* "XenV" */
            break;
    }
    cpuid(leaf + 2, &a, &b);
    __asm__ volatile("wrmsr" : : "c"(b), "a"(hypercall_page), "d"(0) : "memory");
}

static u32 hvm_parameter(u32 index) /* HVMOP_get_param */
{
    struct { u16 domid, pad; u32 index; u64 value; } ask = { DOMID_SELF, 0, index, 0 };
    hypercall(HVM_OP, 1, &ask);
    return (u32)ask.value;
}

static void map_frame(u32 space, void *page) /* XENMEM_add_to_physmap */
{
    struct { u16 domid, size; u32 space, index, frame; } map = { DOMID_SELF, 0, space, 0, FRAME(page) };
    hypercall(MEMORY_OP, 7, &map);
}

static void notify(u32 port) { hypercall(EVENT_CHANNEL_OP, 4, &port); } /* EVTCHNOP_send */

static void sleep_until_event(u32 *ports, u32 count) /* SCHEDOP_poll; clears what was pending */
{
    struct { u32 *ports; u32 count; u64 timeout; } poll = { ports, count, 0 };
    volatile u32 *pending = (volatile u32 *)(shared_info + 32 * 64); /* behind 32 vcpu_info of 64 bytes */
    hypercall(SCHED_OP, 3, &poll);
    for (u32 i = 0; i < count; i++)
        __sync_fetch_and_and(&pending[ports[i] / 32], ~(1u << ports[i] % 32));
}

static void __attribute__((noreturn)) shut_down(u32 reason) /* SCHEDOP_shutdown */
{
    for (;;)
        hypercall(SCHED_OP, 2, &reason);
}
enum { POWEROFF = 0, REBOOT = 1, CRASH = 3 };

/* -- console ----------------------------------------------------------------------------------- */

static struct { char in[1024], out[2048]; volatile u32 in_cons, in_prod, out_cons, out_prod; } *console;
static u32 console_port;

static void say(const char *text)
{
    for (; *text; text++) {
        while (console->out_prod - console->out_cons >= sizeof console->out) {
            notify(console_port);
            hypercall(SCHED_OP, 0, NULL); /* SCHEDOP_yield */
        }
        console->out[console->out_prod % sizeof console->out] = *text;
        BARRIER();
        console->out_prod++;
    }
    notify(console_port);
}

static void __attribute__((noreturn)) finish(u32 code)
{
    char digits[12];
    say("solo5_exit(");
    say(number(code, digits + 11));
    say(") called\n");
    shut_down(POWEROFF);
}

static void __attribute__((noreturn)) refuse(const char *what, const char *argument)
{
    say(what);
    say(argument);
    say("\nUsage: guest [--ipv4=ADDRESS/PREFIX] [--ipv4-gateway=ADDRESS] [--port=PORT] [--name=NAME] [--answer=ADDRESS]"
        " [--mode=wait|halt|crash|exit=CODE]\n");
    finish(64);
}

/* -- xenstore ---------------------------------------------------------------------------------- */

static struct { char req[1024], rsp[1024]; volatile u32 req_cons, req_prod, rsp_cons, rsp_prod; } *store;
static u32 store_port;
static u32 changes; /* watch events that nobody has looked at */
static char answer[1025];
enum { XS_READ = 2, XS_WATCH = 4, XS_WRITE = 11, XS_WATCH_EVENT = 15, XS_ERROR = 16 };

static void store_put(const void *from, u32 size)
{
    for (const char *byte = from; size; size--, byte++) {
        while (store->req_prod - store->req_cons >= sizeof store->req)
            sleep_until_event(&store_port, 1);
        store->req[store->req_prod % sizeof store->req] = *byte;
        BARRIER();
        store->req_prod++;
    }
}

static void store_get(void *to, u32 size)
{
    for (char *byte = to; size; size--, byte++) {
        while (store->rsp_prod == store->rsp_cons)
            sleep_until_event(&store_port, 1);
        BARRIER();
        *byte = store->rsp[store->rsp_cons % sizeof store->rsp];
        BARRIER();
        store->rsp_cons++;
    }
    notify(store_port);
}

static int store_message(void) /* one message into `answer`; its type */
{
    struct { u32 type, request, transaction, size; } header;
    store_get(&header, sizeof header);
    store_get(answer, header.size < 1024 ? header.size : 1024);
    answer[header.size < 1024 ? header.size : 1024] = 0;
    return header.type;
}

static int store_ask(u32 type, const char *path, const char *value) /* 1 when it was answered, not refused */
{
    u32 extra = type == XS_READ ? 0 : length(value) + (type == XS_WATCH);
    struct { u32 type, request, transaction, size; } header = { type, 0, 0, length(path) + 1 + extra };
    store_put(&header, sizeof header);
    store_put(path, length(path) + 1);
    store_put(value, extra);
    notify(store_port);
    for (;;) {
        int kind = store_message();
        if (kind != XS_WATCH_EVENT)
            return kind != XS_ERROR;
        changes++;
    }
}

static void store_write_number(const char *path, u32 value)
{
    char digits[12];
    store_ask(XS_WRITE, path, number(value, digits + 11));
}

static void store_events(void)
{
    while (store->rsp_prod != store->rsp_cons)
        if (store_message() == XS_WATCH_EVENT)
            changes++;
}

/* -- network interface ------------------------------------------------------------------------- */

struct ring { volatile u32 req_prod, req_event, rsp_prod, rsp_event, pad[12]; };
struct tx { struct ring ring; struct { u32 grant; u16 offset, flags, id, size; } entry[256]; };
struct rx { struct ring ring; union { struct { u16 id, pad; u32 grant; } request; struct { u16 id, offset, flags; short size; } response; } entry[256]; };
#define BUFFERS 64 /* of 256 places: more than netback ever waits for */
PAGES(tx_page, 1);
PAGES(rx_page, 1);
PAGES(tx_buffers, BUFFERS);
PAGES(rx_buffers, BUFFERS);
#define tx ((struct tx *)tx_page)
#define rx ((struct rx *)rx_page)
static u32 net_port, tx_prod, rx_cons;
static u8 mac[6], address[4];
static int have_net;

static u32 grant(void *page)
{
    static u32 next = 8; /* the first eight are the toolstack's */
    struct entry { u16 flags, domid; u32 frame; } *entry = (struct entry *)grant_table + next;
    entry->domid = 0;
    entry->frame = FRAME(page);
    BARRIER();
    entry->flags = 1; /* GTF_permit_access */
    return next++;
}

static u32 tx_grants[BUFFERS];

static void send(const void *frame, u32 size)
{
    u32 at = tx_prod % BUFFERS;
    if (tx_prod - tx->ring.rsp_prod >= BUFFERS)
        return; /* as a full queue does */
    memcpy(tx_buffers + at * PAGE, frame, size);
    tx->entry[tx_prod % 256].grant = tx_grants[at];
    tx->entry[tx_prod % 256].offset = 0;
    tx->entry[tx_prod % 256].flags = 0;
    tx->entry[tx_prod % 256].id = at;
    tx->entry[tx_prod % 256].size = size;
    BARRIER();
    tx->ring.req_prod = ++tx_prod;
    notify(net_port);
}

static u32 digit(char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; }

static void connect(void)
{
    static char backend_state[128];
    char *end;
    if (!store_ask(XS_READ, "device/vif/0/mac", ""))
        return;
    for (int i = 0; i < 6; i++)
        mac[i] = digit(answer[3 * i]) * 16 + digit(answer[3 * i + 1]);
    store_ask(XS_READ, "device/vif/0/backend", "");
    memcpy(backend_state, answer, length(answer));
    end = backend_state + length(answer);
    memcpy(end, "/state", 7);
    struct { u16 domid, remote; u32 port; } unbound = { DOMID_SELF, 0, 0 };
    hypercall(EVENT_CHANNEL_OP, 6, &unbound); /* EVTCHNOP_alloc_unbound */
    net_port = unbound.port;
    store_ask(XS_WATCH, backend_state, "net");
    for (;;) {
        store_ask(XS_READ, backend_state, "");
        if (equal(answer, "2")) /* InitWait */
            break;
        while (!changes) {
            sleep_until_event(&store_port, 1);
            store_events();
        }
        changes = 0;
    }
    store_write_number("device/vif/0/tx-ring-ref", grant(tx_page));
    store_write_number("device/vif/0/rx-ring-ref", grant(rx_page));
    store_write_number("device/vif/0/event-channel", net_port);
    store_write_number("device/vif/0/request-rx-copy", 1);
    store_write_number("device/vif/0/feature-rx-notify", 1);
    store_write_number("device/vif/0/feature-no-csum-offload", 1);
    for (u32 i = 0; i < BUFFERS; i++) {
        tx_grants[i] = grant(tx_buffers + i * PAGE);
        rx->entry[i].request.id = i;
        rx->entry[i].request.grant = grant(rx_buffers + i * PAGE);
    }
    tx->ring.rsp_event = 1;
    rx->ring.rsp_event = 1;
    rx->ring.req_prod = BUFFERS;
    store_write_number("device/vif/0/state", 4); /* Connected */
    for (;;) {
        store_ask(XS_READ, backend_state, "");
        if (equal(answer, "4"))
            break;
        while (!changes) {
            sleep_until_event(&store_port, 1);
            store_events();
        }
        changes = 0;
    }
    have_net = 1;
    notify(net_port);
}

/* -- ARP, IPv4, ICMP, UDP, TCP: enough to answer in one packet ----------------------------------- */

static u8 frame[1600];
static u16 http_port = 80;
static u8 dns_address[4];
static char page[1024];

static u16 get16(const u8 *at) { return at[0] << 8 | at[1]; }
static u32 get32(const u8 *at) { return (u32)get16(at) << 16 | get16(at + 2); }
static void put16(u8 *at, u32 value) { at[0] = value >> 8; at[1] = value; }
static void put32(u8 *at, u32 value) { put16(at, value >> 16); put16(at + 2, value); }

static u32 sum(const u8 *at, u32 size, u32 total)
{
    for (; size > 1; at += 2, size -= 2)
        total += get16(at);
    return size ? total + (at[0] << 8) : total;
}

static u16 fold(u32 total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return ~total;
}

static void arp(u16 operation, const u8 *to_mac, const u8 *to_address)
{
    memcpy(frame, to_mac, 6);
    memcpy(frame + 6, mac, 6);
    put16(frame + 12, 0x0806);
    memcpy(frame + 14, "\0\1\10\0\6\4", 6);
    put16(frame + 20, operation);
    memcpy(frame + 22, mac, 6);
    memcpy(frame + 28, address, 4);
    memcpy(frame + 32, to_mac, 6);
    memcpy(frame + 38, to_address, 4);
    memset(frame + 42, 0, 18);
    send(frame, 60);
}

/* Sends `frame` back to where it came from; `size` bytes behind the 20 of the IP header. */
static void reply(u8 protocol, u32 size)
{
    u8 *ip = frame + 14;
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    memcpy(ip + 16, ip + 12, 4);
    memcpy(ip + 12, address, 4);
    ip[0] = 0x45;
    ip[8] = 64;
    ip[9] = protocol;
    put16(ip + 2, 20 + size);
    put32(ip + 4, 0x4000); /* no identification, don't fragment */
    put16(ip + 10, 0);
    put16(ip + 10, fold(sum(ip, 20, 0)));
    if (protocol != 1) { /* the pseudo header of UDP and TCP */
        u8 *check = ip + 20 + (protocol == 17 ? 6 : 16);
        put16(check, 0);
        u16 value = fold(sum(ip + 12, 8 + size, protocol + size));
        put16(check, value ? value : 0xffff);
    }
    send(frame, 34 + size < 60 ? 60 : 34 + size);
}

static void swap_ports(u8 *header)
{
    u16 from = get16(header);
    put16(header, get16(header + 2));
    put16(header + 2, from);
}

/* Without a state: what a segment acknowledges says where we are, and one segment holds the whole page. */
static void tcp(u8 *header, u32 size)
{
    u32 offset = (header[12] >> 4) * 4, flags = header[13];
    u32 sequence = get32(header + 4), acknowledged = get32(header + 8), data = size - offset, body = 0;
    if (offset > size || get16(header + 2) != http_port || flags & 4)
        return;
    swap_ports(header);
    if (flags & 2) { /* SYN */
        put32(header + 4, sequence ^ 0x5ca1ab1e);
        put32(header + 8, sequence + 1);
        header[13] = 0x12;
    } else if (data) {
        body = length(page);
        put32(header + 4, acknowledged);
        put32(header + 8, sequence + data + (flags & 1));
        header[13] = 0x19; /* ACK, PSH, FIN */
        memcpy(header + 20, page, body);
        say("GET\n");
    } else if (flags & 1) { /* FIN */
        put32(header + 4, acknowledged);
        put32(header + 8, sequence + 1);
        header[13] = 0x10;
    } else {
        return;
    }
    header[12] = 5 << 4;
    put16(header + 14, 8192);
    put16(header + 18, 0);
    reply(6, 20 + body);
}

static void dns(u8 *header, u32 size)
{
    u8 *message = header + 8;
    u32 at = 12;
    if (size < 8 + 17 || get16(header + 2) != 53 || message[2] & 0x80)
        return;
    while (at < size - 13 && message[at])
        at += message[at] + 1;
    at += 5;
    put16(message + 2, 0x8580); /* an authoritative answer without an error */
    put16(message + 6, 1);
    put32(message + 8, 0);
    memcpy(message + at, "\xc0\x0c\0\1\0\1\0\0\0\0\0\4", 12);
    memcpy(message + at + 12, dns_address, 4);
    swap_ports(header);
    put16(header + 4, 8 + at + 16);
    reply(17, 8 + at + 16);
}

/* --mode=puppet: sends what a datagram to port 9 holds, as a whole frame, and then answers. For frames that no guest should send. */
static int puppet;

static void pull(u8 *header, u32 size)
{
    if (size <= 8 + 14)
        return;
    send(header + 8, size - 8);
    swap_ports(header);
    put16(header + 4, 12);
    reply(17, 12);
}

static void received(u32 size)
{
    u8 *ip = frame + 14;
    u16 kind = get16(frame + 12);
    if (kind == 0x0806 && size >= 42 && get16(frame + 20) == 1 && same((char *)frame + 38, (char *)address, 4)) {
        u8 to_mac[6], to[4];
        memcpy(to_mac, frame + 22, 6);
        memcpy(to, frame + 28, 4);
        arp(2, to_mac, to);
    } else if (kind == 0x0800 && size >= 34 && ip[0] == 0x45 && same((char *)ip + 16, (char *)address, 4)) {
        u32 total = get16(ip + 2);
        if (total > size - 14 || total < 28)
            return;
        if (ip[9] == 1 && ip[20] == 8) { /* echo request */
            ip[20] = 0;
            put16(ip + 22, 0);
            put16(ip + 22, fold(sum(ip + 20, total - 20, 0)));
            reply(1, total - 20);
        } else if (ip[9] == 17 && puppet && get16(ip + 22) == 9) {
            pull(ip + 20, total - 20);
        } else if (ip[9] == 17) {
            dns(ip + 20, total - 20);
        } else if (ip[9] == 6 && total >= 40) {
            tcp(ip + 20, total - 20);
        }
    }
}

static void net_events(void)
{
    while (rx->ring.rsp_prod != rx_cons) {
        BARRIER();
        u16 id = rx->entry[rx_cons % 256].response.id, offset = rx->entry[rx_cons % 256].response.offset;
        int size = rx->entry[rx_cons % 256].response.size;
        u32 gref = 8 + 2 + 2 * id + 1; /* as connect() granted them */
        if (size > 0 && size <= 1514) {
            memcpy(frame, rx_buffers + id * PAGE + offset, size);
            received(size);
        }
        u32 at = rx->ring.req_prod % 256;
        rx->entry[at].request.id = id;
        rx->entry[at].request.grant = gref;
        BARRIER();
        rx->ring.req_prod++;
        rx_cons++;
        rx->ring.rsp_event = rx_cons + 1;
        BARRIER();
    }
    tx->ring.rsp_event = tx->ring.rsp_prod + 1;
    notify(net_port);
}

/* -- boot arguments ---------------------------------------------------------------------------- */

static char name[65] = "web"; /* as the unikernel, without --name */

static int read_address(const char *text, u8 *to)
{
    for (int part = 0; part < 4; part++) {
        u32 value = 0, digits = 0;
        for (; *text >= '0' && *text <= '9'; text++, digits++)
            value = value * 10 + *text - '0';
        if (!digits || digits > 3 || value > 255 || (part < 3 && *text++ != '.'))
            return 0;
        to[part] = value;
    }
    return *text == 0 || *text == '/';
}

static u32 read_number(const char *text)
{
    u32 value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + *text - '0';
    return value;
}

static const char *mode = "wait";

static void take(char *argument)
{
    char *value = argument;
    u8 unused[4];
    while (*value && *value != '=')
        value++;
    if (!*value)
        refuse("too many arguments, don't know what to do with ", argument);
    *value++ = 0;
    if (equal(argument, "--ipv4")) {
        if (!read_address(value, address))
            refuse("option '--ipv4': invalid value ", value);
    } else if (equal(argument, "--ipv4-gateway")) {
        if (!read_address(value, unused))
            refuse("option '--ipv4-gateway': invalid value ", value);
    } else if (equal(argument, "--answer")) {
        if (!read_address(value, dns_address))
            refuse("option '--answer': invalid value ", value);
    } else if (equal(argument, "--port")) {
        http_port = read_number(value);
    } else if (equal(argument, "--name")) {
        memset(name, 0, sizeof name);
        memcpy(name, value, length(value) < 64 ? length(value) : 64);
    } else if (equal(argument, "--mode")) {
        mode = value;
    } else if (!equal(argument, "--logs") && !equal(argument, "--delay")) {
        refuse("unknown option ", argument);
    }
}

/* As mirage-bootvar splits it: only a space separates, a backslash takes the next character as it is, double quotes hold a
 * word together, a single quote is an ordinary character. */
static void take_all(char *line)
{
    char *word = line, *to = line;
    int quoted = 0;
    for (;; line++) {
        if (*line == '\\') {
            if (!*++line)
                refuse("the boot arguments end behind a backslash", "");
            *to++ = *line;
        } else if (*line == '"') {
            quoted = !quoted;
        } else if (!*line || (*line == ' ' && !quoted)) {
            int last = !*line;
            if (quoted)
                refuse("the boot arguments end inside double quotes", "");
            *to = 0;
            if (*word)
                take(word);
            if (last)
                return;
            word = to = line + 1;
        } else {
            *to++ = *line;
        }
    }
}

/* hvm_start_info of hvm/start_info.h: magic, version, flags, modules, then the 64-bit addresses. */
struct start_info { u32 magic, version, flags, modules; u64 modules_at, command_line_at; };

void begin(const struct start_info *info)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: ";
    static char line[8192], text[256];
    char digits[12], *size;
    u32 ports[2];

    map_hypercalls();
    map_frame(0, shared_info);
    map_frame(1, grant_table);
    console = (void *)(hvm_parameter(17) * PAGE);
    console_port = hvm_parameter(18);
    store = (void *)(hvm_parameter(1) * PAGE);
    store_port = hvm_parameter(2);

    say(GREETING "\n");
    if (info->command_line_at) {
        const char *from = (const char *)(u32)info->command_line_at;
        memcpy(line, from, length(from) < sizeof line ? length(from) : sizeof line - 1);
        take_all(line);
    }
    if (equal(mode, "halt"))
        finish(0);
    if (equal(mode, "crash")) {
        say("solo5_abort() called\n");
        shut_down(CRASH);
    }
    if (same(mode, "exit=", 5))
        finish(read_number(mode + 5));
    while (equal(mode, "flood")) /* as fast as the console takes it, with an escape sequence that clears a terminal */
        say("\033[2J\0332;a title\007 a line as long as those that a program in a loop of failures writes to its console\n");
    puppet = equal(mode, "puppet");
    if (!equal(mode, "wait") && !puppet)
        refuse("option '--mode': invalid value ", mode);

    memcpy(text, name, length(name));
    memcpy(text + length(name), ": It answers. " GREETING "\n", sizeof ": It answers. " GREETING "\n");
    size = number(length(text), digits + 11);
    memcpy(page, head, sizeof head - 1);
    memcpy(page + sizeof head - 1, size, length(size));
    memcpy(page + length(page), "\r\n\r\n", 4);
    memcpy(page + length(page), text, length(text));

    store_ask(XS_WATCH, "control/shutdown", "end");
    connect();
    if (have_net && address[0])
        arp(1, (const u8 *)"\xff\xff\xff\xff\xff\xff", address); /* gratuitous: a replaced domain is reached at once */
    say(name);
    say(": ready\n");
    changes = 1; /* asked to end while it connected */
    ports[0] = store_port;
    ports[1] = net_port;
    for (;;) {
        store_events();
        if (changes) {
            changes = 0;
            if (store_ask(XS_READ, "control/shutdown", "") && *answer) {
                int again = equal(answer, "reboot");
                store_ask(XS_WRITE, "control/shutdown", "");
                say("shutdown requested\n");
                if (again)
                    shut_down(REBOOT);
                finish(0);
            }
        }
        if (have_net)
            net_events();
        sleep_until_event(ports, have_net ? 2 : 1);
    }
}

__asm__(".section .start, \"ax\"\n"
        ".globl _start\n"
        "_start: cld\n"
        "movl $stack_end, %esp\n"
        "pushl %ebx\n" /* hvm_start_info */
        "call begin\n"
        ".bss\n"
        ".lcomm stack, 16384\n"
        ".globl stack_end\n"
        ".set stack_end, stack + 16384\n"
        ".text\n");

#!/usr/bin/python
# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: xen_domain
short_description: Manage one Xen domain (DomU) that runs a unikernel or another PVH kernel
version_added: 0.1.0
description:
  - Creates, changes, replaces or removes one PVH domain, so that it is as declared.
  - The declaration is compared with what Xen reports of the running domain (kernel, boot arguments, memory, devices), never
    with a file.
  - A unikernel can't be changed in place. When something differs, the new domain is built beside the old one, takes its
    name and its place on the bridge, and must be healthy (O(health), O(settle)) before the old one is destroyed. If it
    is not, or if anything else fails, the old one runs again and the task fails with RV(rolled_back) true. See O(update).
  - An option that is not set has the default that is documented here, in a running domain as well; removing an option from the
    declaration resets it.
  - Domain-0 and domains that this collection did not create are never touched, unless O(adopt=true).
author:
  - unikernels.xen authors (@unikernels)
requirements:
  - A Debian host that runs as Dom0 (role P(unikernels.xen.xen_host#role)), root.
attributes:
  check_mode:
    description: Can run in check mode and predict exactly what a run would do.
    support: full
  diff_mode:
    description: Shows what differs, in the words of the options.
    support: full
options:
  name:
    description:
      - Name of the domain; 1 to 63 letters, digits, V(_), V(.), V(-). Digits alone are refused, because xl reads them as a
        domain's id.
    type: str
    required: true
  state:
    description:
      - V(running), V(paused), V(stopped) (defined, not running) or V(absent) (neither).
      - Stopping asks the guest first and destroys it after O(shutdown_timeout).
    type: str
    choices: [running, paused, stopped, absent]
    default: running
  autostart:
    description:
      - Whether the domain is started when the host boots.
      - By default true for O(state=running) and O(state=paused).
    type: bool
  type:
    description: V(pvh) for unikernels and other PVH kernels, V(pv) for a paravirtualized kernel.
    type: str
    choices: [pvh, pv]
    default: pvh
  uuid:
    description: UUID of the domain. By default derived from host and name, so that it never changes.
    type: str
  kernel:
    description:
      - Path on the host of a kernel that Xen can boot as PVH, for example an image in the store that
        M(unikernels.xen.mirage_image) keeps. Required unless O(state=absent).
      - Also a 32-bit PVH kernel, such as Debian's C(grub-i386-xen_pvh.bin), or a Linux C(bzImage).
    type: str
  ramdisk:
    description: >-
      Path on the host of an initial RAM disk beside O(kernel), for Linux; a unikernel has none. Where the host requires
      signatures, C(unikernel_images_kernels) must have its digest.
    type: str
  memory:
    description: Memory in MiB.
    type: int
    default: 64
  maxmem:
    description: Maximum memory in MiB that the guest may use later, if it has a balloon driver. By default as O(memory).
    type: int
  vcpus:
    description: Number of virtual CPUs. A unikernel uses one.
    type: int
    default: 1
  cpus:
    description:
      - CPUs that the domain may run on, as in V(0-3,^1,8) or V(all).
      - A host may restrict all domains to fewer (C(vm.cpumask) in xl.conf).
    type: str
  cpu_weight:
    description: Share of CPU time when CPUs are scarce; a domain with 512 gets twice that of one with 256.
    type: int
    default: 256
  cap:
    description: Maximum CPU time in percent of one CPU; V(0) for no limit.
    type: int
    default: 0
  arguments:
    description:
      - Boot arguments, as a list of words or a mapping, in which C(port 80) becomes C(--port=80), true gives the bare
        option, false leaves it out and a list repeats it.
      - Words are quoted as MirageOS reads them (a space in a value stays in it), which differs from a shell. The whole line
        may have 8191 bytes, what Solo5 keeps.
      - Text is the whole line as it is, for a kernel with a grammar of its own, such as Linux. No addresses are added to it, so
        O(interfaces[].address) must not be set.
      - The arguments of a domain are readable by everyone on the host. Secrets belong on a disk.
    type: raw
  interfaces:
    description: Virtual network interfaces (vifs), in their order.
    type: list
    elements: dict
    default: []
    suboptions:
      bridge:
        description: Bridge of the host.
        type: str
        required: true
      mac:
        description: MAC address. By default derived from host, domain and position, so that it never changes.
        type: str
      address:
        description: ADDRESS/PREFIX, given to the unikernel as C(--ipv4=) or C(--ipv6=).
        type: str
      gateway:
        description: Gateway inside that network, given as C(--ipv4-gateway=) or C(--ipv6-gateway=).
        type: str
      address6:
        description: IPv6 ADDRESS/PREFIX beside an IPv4 O(interfaces[].address).
        type: str
      gateway6:
        description: IPv6 gateway beside O(interfaces[].address6).
        type: str
      gateway_on_link:
        description:
          - Whether a gateway outside the subnet of the address is nevertheless on the link. Not needed for a single address
            (C(/32), C(/128)) and for a link-local gateway (V(fe80::1)), which are always resolved on the link.
        type: bool
        default: false
        version_added: 0.2.0
      ip:
        description:
          - Further addresses and networks, separated by spaces, that the domain may send from, in addition to
            O(interfaces[].address) and O(interfaces[].address6). For a router or VPN endpoint, the networks behind it; for a
            domain that gets its address by DHCP, the addresses that it can get.
          - A network is one whose last bits are zero, as in V(10.8.0.0/24); V(10.8.0.1/24) is the address.
        type: str
      antispoofing:
        description:
          - Whether a host set up by the role P(unikernels.xen.xen_host#role) lets the domain send only from its own MAC and
            addresses, whoever starts it. Without any address it can send nothing.
          - V(false) is for domains that bridge, or that route for unknown networks. Dom0's ports stay closed to them.
        type: bool
        default: true
      rate:
        description: Maximum rate at which the domain may send, as in V(10Mb/s) or V(500KB/s@20ms).
        type: str
      script:
        description: Hotplug script, a name in C(/etc/xen/scripts) or a path. By default that of xl.conf.
        type: str
      vifname:
        description: Name of the network device in Dom0. It prevents replacing the domain beside the old one (O(update)).
        type: str
      mtu:
        description: MTU of the interface. V(1500) is the bridge's.
        type: int
        default: 1500
      group:
        description: Mirage's name for the interface when it has several, as in C(--management-ipv4=).
        type: str
  disks:
    description:
      - Virtual disks, in their order.
      - A missing file is created, once, from O(disks[].size), O(disks[].source) or O(disks[].content). An existing file is
        never overwritten.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - File or block device on the host, as an absolute path. Required, except with O(disks[].content).
          - Nothing is created or removed below C(/dev), C(/proc) and C(/sys), nor where the host is configured to mount a file
            system and has not.
        type: str
      vdev:
        description:
          - Device inside the domain. By default V(xvda), V(xvdb) and so on.
          - The disks of a MirageOS unikernel whose C(config.ml) has C(block_of_file) begin at V(xvdb), because Mirage reserves
            the first one for a boot disk.
        type: str
      format:
        description: >-
          V(qcow2) needs QEMU in Dom0 (C(xen_host_qemu)), which can't open it read-only and does not lock it, so it is refused
          on shared storage. An image with a backing file or an external data file is refused.
        type: str
        choices: [raw, qcow2]
        default: raw
      access:
        description: V(r) read-only, V(w) read and write. Only one domain may open a disk for writing.
        type: str
        choices: [r, w]
        default: r
      shared:
        description:
          - Whether other hosts can open the file too. Then the host holds a lock (a file with C(.lock) after its name) as long as
            the domain has the disk, even if it was started by hand or at boot, and refuses a disk that a domain on another host
            writes, or would write.
          - The file server releases the lock when its host dies (after 90 seconds with NFSv4's default).
          - By default true for files on NFS, CIFS, CephFS, GlusterFS, OCFS2 and GFS2.
        type: bool
      size:
        description:
          - Size in MiB. A new file is empty and sparse; a smaller one is enlarged, which replaces its domain.
          - Shrinking is refused.
        type: int
      source:
        description:
          - File on the host that a new disk is copied from. Formats that xl can't attach (vmdk, vhd, vdi), and qcow2 for a raw
            disk, are converted once by C(qemu-img).
          - A copy is padded with zeros to a multiple of 4096 bytes, because MirageOS reads whole blocks only.
        type: str
      content:
        description:
          - Text that the unikernel reads from sector 0 of a read-only disk, padded with zeros to whole blocks of 4096 bytes;
            for example the configuration of a VPN endpoint.
          - The file is kept with mode 0600 and named after the content, so other content is another disk, and replaces the
            domain. The file is removed when no domain uses it.
        type: str
  disks_on_absent:
    description:
      - With O(state=absent), V(remove) deletes the files of those O(disks) that this module can create. Files named after their
        content are always removed. Links and devices are refused.
      - A disk that vanished without this is never replaced with an empty one, not even for another domain.
    type: str
    choices: [keep, remove]
    default: keep
  on_poweroff:
    description: What Xen does when the domain stops by itself.
    type: str
    choices: [destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart]
    default: destroy
  on_reboot:
    description: What Xen does when the domain asks for a reboot.
    type: str
    choices: [destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart]
    default: restart
  on_crash:
    description: What Xen does when the domain crashes. V(preserve) keeps it for inspection.
    type: str
    choices: [destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart]
    default: preserve
  service:
    description: A word for what it serves, for listings and the inventory plugin P(unikernels.xen.xen_domains#inventory).
    type: str
  extra_config:
    description:
      - A mapping of other keys of xl.cfg(5) to whole numbers, text or lists of text, which are quoted.
      - Refused are keys that have an option here, and keys that boot something else than O(kernel) or select programs of Dom0
        that serve the domain (C(bootloader), C(firmware), C(pvshim), C(device_model_...)).
      - Xen does not report these, so they are compared with the definition with which the running domain became healthy.
    type: dict
  update:
    description:
      - How a domain that differs is replaced.
      - V(standby) builds the new domain, paused, beside the old one. Then, in one short moment, the old one leaves the bridge
        and the new one runs under the declared name. Without memory for both, or when both would write one disk, this is
        V(recreate).
      - V(warm) is V(standby), but the new domain boots first, with its interfaces off the bridge, until a line on its
        console matches O(ready). The service is away for milliseconds. It is for unikernels that need no network to start.
      - V(recreate) stops the old domain first. If the new one fails, the old one is started again.
      - V(never) reports in RV(differs) and changes nothing of the running domain except its state (O(state=paused) pauses it).
    type: str
    choices: [standby, warm, recreate, never]
    default: standby
  ready:
    description: >-
      With O(update=warm), a regular expression for the line that the domain prints on its console when it has booted.
    type: str
  ready_within:
    description: With O(update=warm), seconds to wait for that line.
    type: int
    default: 60
  live:
    description:
      - Change the running domain where Xen can, in V(cpus), V(cpu_weight), V(cap), V(vcpus) up to the number it was created
        with, and disks and interfaces that are added or removed.
      - The guest has to cooperate in the last three; unikernels do not. If a guest does not, the change is undone and the task
        fails.
      - By default every change replaces the domain, so that what runs equals what a start creates.
    type: bool
    default: false
  health:
    description:
      - The check that a started domain must pass, and that a replacement must pass before the old domain is removed. The host
        asks the service in its own protocol, until it answers as declared or C(within) seconds have passed (1..3600, 30 by
        default).
      - One attempt takes at most 5 seconds (30 for C(command)) as a whole, whatever is sent and however slowly.
      - Exactly one of C(http), C(tcp), C(dns), C(openvpn), C(console) and C(command).
      - An ADDRESS is a name (ASCII, an international one as its C(xn--) form), an IPv4 address, or an IPv6 address in brackets.
      - C(http) is a URL, of http or https, asked with GET. No redirect is followed, no proxy used. With it C(status), the status
        that must be answered, 200 by default; C(contains), text that must occur in the first 64 KiB of the body; C(host),
        what the request names as its host, for https also the name in the certificate, by default the URL's; and for https
        C(ca), the path on the host of certificates (PEM) of the authorities to trust, in place of the system's, or
        C(insecure), which accepts any certificate that has not expired.
      - C(tcp), ADDRESS:PORT, must accept a connection.
      - C(dns), NAME@ADDRESS or NAME@ADDRESS:PORT, must answer with a record. With it C(type), the type of record, V(A) by
        default; C(answer), one of the records, where names are compared without case and final dot, and addresses by what
        they mean; C(transport), V(udp) (with TCP after a truncated answer), V(tcp) or V(both); C(signed), whether there must be a
        signature of the record (DNSSEC) that has not expired. Aliases (CNAME) in the answer are followed. The host needs
        C(python3-dnspython), which the role P(unikernels.xen.xen_host#role) installs.
      - C(openvpn), ADDRESS:PORT, must answer a client's first packet, and then show a certificate that has not expired, of the CA
        whose certificate is beside the key, if there is one. With it C(key), required, the path on the host of the
        endpoint's tls-crypt key, without which OpenVPN gives no answer that identifies it (then declare C(tcp)); and
        C(transport), V(tcp) or V(udp), V(tcp) by default. The host needs C(python3-cryptography), which the role installs.
      - C(console), a regular expression (Python's) that must match a line that the domain prints after its start. The first
        1000 characters of each line and the last 64 KiB of the console are searched, for at most 5 seconds.
      - C(command), a list, the absolute path of a program on the host and its arguments, must exit with 0. No shell reads it.
        It and all that it started are killed (SIGKILL) when it exits or times out.
    type: dict
  restart:
    description:
      - Whether the host restarts the domain when it dies, without a controller; for O(state=running) with O(autostart), once it
        was healthy. See the chapter on domains that die in C(docs/operating.md).
      - V(on-failure) when it crashes, exits with a code other than 0 (Solo5's C(solo5_exit)), or hangs (O(watchdog)).
      - V(always) also when it stops by itself without an error.
      - V(never) leaves it as it is. So does each value for a domain that was destroyed or shut down by hand (C(xl destroy),
        C(xl shutdown)).
      - By default V(on-failure). A change of O(restart), O(restart_limit) or O(watchdog) does not touch the running domain.
    type: str
    choices: [always, on-failure, never]
  restart_limit:
    description:
      - C(starts), 5 by default, and C(within), 600 by default. A domain that was restarted C(starts) times within C(within)
        seconds is not restarted any more, until the next run that creates it. Restarts by Xen itself (O(on_reboot),
        O(on_crash)) count too, and a domain that Xen restarts in a loop is destroyed.
      - The delay before a restart doubles from 1 to 60 seconds.
    type: dict
  watchdog:
    description:
      - Seconds (5..3600) between checks of O(health) of the running domain, by the host. The domain is restarted after 3
        failures in a row. V(true) is every 10 seconds, V(false) and 0 never.
      - After a start, failures count only once it was healthy or C(within) of O(health) has passed.
      - O(health) must not be C(console), which shows only the start.
    type: raw
  settle:
    description: Without O(health), seconds to watch a started domain. If it stops within this time it has failed.
    type: int
    default: 2
  shutdown_timeout:
    description: Seconds to wait for a guest to shut down before it is destroyed. 0 destroys it at once.
    type: int
    default: 10
  adopt:
    description: Take over a running domain of this name that this collection did not create.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another run on the same host. It always waits for the start of the host's domains at boot.
    type: int
    default: 60
seealso:
  - module: unikernels.xen.xen_domains
  - module: unikernels.xen.xen_domain_info
  - module: unikernels.xen.xen_console
"""

EXAMPLES = r"""
- name: Run a web server
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 128
    interfaces:
      - bridge: xenbr0
        address: 10.0.2.101/24
        gateway: 10.0.2.2
    arguments:
      port: 80
    health:
      http: http://10.0.2.101/
      within: 120

- name: Give it more memory, without a gap in its service
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 144
    interfaces:
      - bridge: xenbr0
        address: 10.0.2.101/24
        gateway: 10.0.2.2
        rate: 100Mb/s
    arguments:
      port: 80
    update: warm
    ready: "www: ready|web: ready"
    health:
      http: http://10.0.2.101/
      within: 120

- name: A domain with a disk of its own and a configuration that it reads from another
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 128
    cpu_weight: 512
    disks:
      - path: /var/lib/unikernels/disks/www-data.img
        size: 8
        access: w
      - content: |
          # what the unikernel reads from sector 0
    state: paused

- name: Keep its definition, but stop it and don't start it at boot
  unikernels.xen.xen_domain:
    name: www
    kernel: "{{ web_kernel }}"
    memory: 128
    state: stopped

- name: Remove it
  unikernels.xen.xen_domain:
    name: www
    state: absent
"""

RETURN = r"""
name:
  description: The domain.
  returned: always
  type: str
  sample: www
state:
  description:
    - The state that was observed at the end; V(shutdown) for a domain that has stopped and is preserved, V(dying) for one that
      Xen is still removing, V(unknown) when the host can no longer be observed (then the task fails). In check mode the
      declared state.
  returned: always
  type: str
  sample: running
steps:
  description: The phases that were completed (in check mode, those that would be carried out), in order.
  returned: always
  type: list
  elements: str
  sample: [replace www (standby), autostart www]
primitives:
  description: What these phases consist of, in order.
  returned: in check mode, with C(-v)
  type: list
  elements: str
  sample: [write intent www, build www~next, rename www www~prev]
differs:
  description:
    - The options in which the running domain differed from the declaration, as paths in the words of the options. C(image) is
      O(kernel) where both are files of an image store.
    - The diff has the same words. There C(image) is its name and the beginning of its digest, and O(arguments) the words after
      those that come from addresses.
  returned: always
  type: list
  elements: str
  sample: [image, "interfaces[0].address", "disks[0].content", extra_config.pool]
downtime_ms:
  description: Milliseconds without service, from the switch to the first healthy answer (without O(health), until it ran).
  returned: when a running domain was replaced
  type: int
  sample: 180
rolled_back:
  description: Whether, after a failure, the old domain runs again.
  returned: failure
  type: bool
console:
  description: The last lines of the failed domain's console.
  returned: failure
  type: list
  elements: str
"""

from ansible_collections.unikernels.xen.plugins.module_utils.apply.converge import Refused, converge
from ansible_collections.unikernels.xen.plugins.module_utils.domain.fields import DOMAIN, LOCK, argument_spec
from ansible_collections.unikernels.xen.plugins.module_utils.xen.unlogged import UnloggedModule


def main() -> None:
    module = UnloggedModule(argument_spec=argument_spec((*DOMAIN, LOCK)), supports_check_mode=True)
    options = dict(module.params)
    lock_timeout = options.pop("lock_timeout")
    try:
        result = converge([options], module.check_mode, module.warn, lock_timeout=lock_timeout, verbose=module._verbosity > 0)[0]
    except Refused as refusal:
        module.fail_json(msg=str(refusal))
    if result["failed"]:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

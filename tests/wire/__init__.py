"""Our own Ethernet frames, and a host's bridge in a network namespace to send them through. Needs root, iproute2, nftables."""

"""The firewall around users' servers: a service of its own, in the host's network.

Docker closes the servers' network inside (`enable_icc=false`) and gives it no way out
(`enable_ip_masquerade=false`). This room opens what is needed and nothing else, with
rules in the kernel that outlive the service; docs/isolation.md is the table. Everything
but `presence`, which is the hub's, uses the standard library only.
"""

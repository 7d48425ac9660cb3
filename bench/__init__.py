"""What `make bench` runs: ldapmfa beside HAProxy, OpenLDAP's proxy, ldaptor's and a bare Twisted relay, in one run.

* `rows` says what is measured: a table of rows, each with its peers, figures and goals.
* `work/` does it: one function a row, which prepares a peer and gives a callable that takes one sample.
* `site` starts what is measured: the directory (`directory`) and, before it, the peers (`peers`).
* `load` is the client, a process of its own that speaks hand-made bytes and knows no library; searches are `ldclt`'s.
* `programs/` are the small servers of our own that run as processes: two peers and a directory that never ends.
* `machine` reads the operating system: processor time, memory, open files.
* `results` compares with the goals; `pages` writes them down as JSON, Markdown and a plot.
"""

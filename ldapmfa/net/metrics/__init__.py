"""The figures of a running proxy: what is counted, what it amounts to over all processes, and the page that shows it.

Promised here: no figure is labelled with anything that a client sent: names of users, addresses and texts are in none
(A43). What was counted is not lost with the worker that counted it.

`catalogue` is every figure there is, `memory` where a process keeps its own, `figures` what logins and clients are
counted by, `readings` what is looked up every second, `totals` the sum of all processes and whether they are well,
`page` the answers to HTTP requests.
"""

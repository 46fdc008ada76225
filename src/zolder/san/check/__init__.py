"""``zolder-san check``: looks at everything that has bitten operators, and says what to do.

It changes nothing, needs no agent and no helper, and never takes what it could not see for well. Each check
is a function of a `zolder.san.check.machine.Machine` that yields findings; `zolder.san.check.catalogue` has
them all.
"""

"""The array core: state, changes, decisions and features as compiled functions.

Below this package only numpy and numba, with its llvmlite, are imported besides the standard
library. ``change`` is the only writer of cluster state; everything else reads it, or writes into
buffers that its caller owns. The memo (``place.memo``) is no part of the state: who reads it brings
it up to date.

A function's docstring says what is not obvious from its name; what it returns stands at the end of
the first sentence, unless that is all about it. Unless it says otherwise, its arguments are:

``row``
    A ROW_DTYPE record: one cluster. Kernels take it.
``rows``, ``e``
    Records, and which of them: what entries take, which Python calls. A kernel that takes ``row``
    and ``e`` reads or writes place ``e`` of buffers.
``begin``, ``end``; ``first``, ``last``
    A range, the second one exclusive: of rows; of devices, jobs or whatever else.
``j``, ``n``, ``w``, ``s``, ``t``, ``m``
    Index of a job, a node, a worker of the job, a service, a tenant, a window of a source.
``v``
    A running job that may have to give way; in ``place.memo`` a view of a kind.
``k``
    Number of the job's request kind, 0 if it is not remembered (see ``place.memo``).
``position``
    Of a waiting job in the queue, from 0.
``workers``, ``count``
    How many workers of a job; how many to add or take, or how many entries of an array count.
``nodes``
    int32 [>= workers], the node of each worker: filled by what chooses places (``place``), read by
    what takes them (``change``), scratch for what decides or describes.
``generator``
    A ``Placement``, or ``NODE_CHOICE + n``: by what order nodes, and devices, are chosen.
``kind``
    Of an event, an effect, an action or a record of the log: a member of its enumeration in
    ``state.codes``.
``taken``
    uint64: a mask of devices of a node.
``rule``, ``rules``
    A RULE_DTYPE record; for entries, an array of one. A ``plan`` is a SCALING_DTYPE record.
``scratch``, ``lifted``
    int32 [>= max(jobs, workers)], whatever a rule writes there; int32 [>= jobs], jobs that were
    lifted by ``change.hold.lift_gang``.
``window``
    int32: the jobs that are shown, by their order in the window.
``mask``, ``out``
    int8, 1 where an action is legal; float32, a row of features for each entity of a set. Both
    are filled.
``source``, ``episode``, ``view``, ``buffers``, ``bench``
    Where episodes come from, how rows are shown, what a step writes, and the scratch of one thread:
    the tuples of ``run.buffers``; the bench of a ranker is that of ``run.linear``.

Times are in ms, CPU and shares of GPUs in thousandths, memory in MiB, as names say; capacity units
are those of ``row.unit``. The request path (``requests``) knows no rows: a ``rule`` says there how
a part of it behaves, and a ``state``, which is replaced and never changed, what it has seen.
"""

"""Notices that devices or processes hold different copies of one state.

Every device updates its own copy of the arrays that are not sharded; only gradients are exchanged. So the
copies drift apart if a device is faulty, or if hosts round differently because of other processors or
versions of a library. Gradients are then averaged over different networks.
"""

from muskie_jax.fingerprint import Examination, digest_of
from muskie_jax.processes.coordination import Coordination


def differing_copies(found: Examination, step: int, peers: Coordination | None) -> str:
    """Describes how copies of a state differ; empty if they are equal. Each process must call this.

    Args:
      found: what this process has found about its copies.
      step: the update after which the state was examined.
      peers: the other processes; None without any.
    """
    unequal = f"{len(found.unequal)} arrays, such as {found.unequal[0]}" if found.unequal else ""
    own = f"{digest_of(found.fingerprints)} {unequal}"
    of_processes = peers.gather(f"copies after update {step}", own) if peers else [own]
    digests, details = zip(*(each.split(" ", 1) for each in of_processes))
    differ = [
        f"the devices of process {process} hold different copies of {detail}"
        for process, detail in enumerate(details)
        if detail
    ]
    others = [str(process) for process, digest in enumerate(digests) if digest != digests[0]]
    if others:
        differ.append(f"processes 0 and {', '.join(others)} hold different copies of the state")
    if not differ:
        return ""
    return (
        f"after update {step}, {'; '.join(differ)}: a device may be faulty, or hosts may differ in "
        "processors or versions; checkpoints contain the copy of the first device"
    )

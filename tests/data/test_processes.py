import gc
import os
import weakref

from hf_emktd.data.processes import fork_without_garbage


class Cycle:
    def __init__(self):
        self.itself = self


def test_garbage_is_freed_before_a_fork_and_the_rest_left_alone_after_it():
    thrown_away = weakref.ref(Cycle())
    kept = Cycle()
    alive = weakref.ref(kept)
    assert thrown_away() is not None
    with fork_without_garbage():
        assert thrown_away() is None
        del kept
        child = os.fork()
        if child == 0:
            gc.collect()
            os._exit(0 if alive() is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gc.collect()
    assert alive() is None

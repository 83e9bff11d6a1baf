"""Which of a GPU's streams is the current one, where there is no GPU."""

from contextlib import contextmanager


class Streams:
    """`on` stands in for torch.cuda.stream, and `current` for what torch.cuda.current_stream gives."""

    @contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

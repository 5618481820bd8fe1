"""Jobs that wait for each other: what reproduces the experiment and what tests it do theirs by this."""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait


def as_ready(jobs, needs, work, at_once):
    """Do jobs, some at a time, each as soon as those that it needs have ended well.

    `needs` gives the names of those, `work` a job's error, empty where it went well.
    Gives each job with its error when it has ended."""
    waiting, running, good = list(jobs), {}, set()
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            ready = [job for job in waiting if good.issuperset(needs(job))]
            for job in ready[: at_once - len(running)]:
                waiting.remove(job)
                running[pool.submit(work, job)] = job
            if not running:
                break
            # a signal is answered when the main thread runs: it does so every second
            ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for future in ended:
                job, error = running.pop(future), future.result()
                if not error:
                    good.add(job.name)
                yield job, error
    for job in waiting:
        yield job, "not done: what it needs has failed"

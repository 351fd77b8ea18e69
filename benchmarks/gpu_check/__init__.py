"""The GPU check: builds, proves and measures the project on one machine, in ten minutes.

    python benchmarks/gpu_check --out DIR                        # on a machine with a GPU
    python benchmarks/gpu_check --out DIR --device cpu           # the rehearsal, without one
    python benchmarks/gpu_check --page docs/gpu_results.md RESULTS.json ...

``check.py`` copies the sources into a temporary folder and runs the stages, each as a process of
its own with a time limit; ``stages/`` has one file a stage; what a stage finds out it records
through ``stage.py``; ``page.py`` makes the page of it.
"""

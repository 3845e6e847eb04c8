"""`akg bench`: KernelBench-format problems under eager, Inductor and AKG, interleaved in one process per device.

problem   a file as model and inputs on a device
compare   are a contender's values as good as eager's?
clock     how calls are timed on the CPU and on CUDA
worker    one process: reads problem paths, answers with rows
run       the parent: hands out problems, survives a worker's death
table     what is claimed of the rows: medians, fast_p, geometric means, roofline; a table and a plot
"""

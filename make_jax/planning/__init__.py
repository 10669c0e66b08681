"""What a training step would need and take on a TPU slice, from compiling it there without having one."""

"""Names and shapes in single files of the latent diffusion code and its successors (LDM, Stable Diffusion, SGM).

Every part has a module with two pure functions: `places(config)` says where our tensors lie in such a file, and
`config(shapes)` reads what the part is made of from the shapes alone. Names are without the prefix that the part has in
a file. No torch is imported here, and no weight is read.
"""

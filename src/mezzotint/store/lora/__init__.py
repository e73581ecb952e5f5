"""LoRA and its kin: small files that change the weights of a model.

names       what files call a layer, and what the ending of a key says     (no torch)
algorithms  which factors make a change, and the shape that they make      (no torch)
facts       what a file's header tells of it, for `inspect`                (no torch)
delta       the change of one weight, computed from its factors
read        a file's tensors to an `Adapter`
write       an `Adapter` to a file, as kohya's scripts or as peft write it
convert     a file of one naming to one of another, from the file alone
apply       adapters put on a model's weights, and taken off to the last bit
"""

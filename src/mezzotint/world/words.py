"""The words and turns of phrase that captions are made of."""

from __future__ import annotations

SHAPE_WORDS = {
    "sphere": ("sphere", "ball", "orb"),
    "cube": ("cube", "box", "block"),
    "cylinder": ("cylinder", "can", "drum"),
    "cone": ("cone",),
    "torus": ("torus", "ring", "donut", "doughnut"),
    "pyramid": ("pyramid",),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "lemon"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise", "aqua"),
    "blue": ("blue", "royal blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white",),
    "black": ("black",),
}
THINGS = ("object", "thing", "solid")
"""A solid whose shape is not said."""
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
MATERIAL_WORDS = {"matte": ("matte", "dull"), "shiny": ("shiny", "glossy", "polished")}
TABLE_WORDS = {
    "wooden": ("a wooden table", "a wood table", "wood"),
    "stone": ("a stone table", "stone"),
    "slate": ("a slate table", "a dark table", "slate"),
    "linen": ("a linen tablecloth", "a table with a cloth", "linen"),
    "tiled": ("a tiled table", "a checkered table", "tiles"),
}
LIGHT_WORDS = {"left": "lit from the left", "right": "lit from the right", "front": "lit from the front"}
NUMBER_WORDS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
NUMBERS = tuple(word for words in NUMBER_WORDS.values() for word in words)
ANY_TABLE = ("on a table", "on the table", "on top of a table")
OPENINGS = (
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a rendering of ",
    "a photograph of ",
    "a still life with ",
    "there is ",
    "please draw ",
    "draw ",
    "draw me ",
    "show me ",
    "i want ",
    "i would like ",
    "i would like to see ",
    "i need ",
    "can you draw ",
    "could you paint ",
    "please make ",
    "please show ",
    "create ",
    "generate ",
    "render ",
    "paint ",
    "give me ",
    "imagine ",
    "we see ",
    "something like ",
    "the following: ",
    "an illustration of ",
)
ENDINGS = (" please", ", please", "?", "!", ", thank you", ", and nothing else")
FILLERS = ("beautiful", "nice", "simple", "3d", "high quality", "detailed", "4k", "perfect", "lovely", "plain")

LEFT_OF = ("to the left of", "left of", "on the left of", "on the left side of")
RIGHT_OF = ("to the right of", "right of", "on the right of", "on the right side of")
IN_FRONT_OF = ("in front of", "before", "closer than", "below")
BEHIND = ("behind", "in back of", "further away than", "above")
NEXT_TO = ("next to", "beside", "near", "close to", "by", "alongside")
IS = ("is", "stands", "sits", "is placed")
AND = ("and", "with", "and also", "as well as", "plus", "together with")
ITS = {
    LEFT_OF: ("to its left", "on its left", "to the left of it", "on the left of it"),
    RIGHT_OF: ("to its right", "on its right", "to the right of it", "on the right of it"),
    IN_FRONT_OF: ("in front of it",),
    BEHIND: ("behind it",),
}
"""A relation to what has just been named."""
WITH_IT = ("{b} with {a} {its}", "{b} and {its} {a}", "{b}, {its} {a}", "{b} and {a} {its}")
SIDES = (
    "{a} on the left and {b} on the right",
    "{a} on the left, {b} on the right",
    "{a} is on the left and {b} is on the right",
    "{b} on the right and {a} on the left",
    "on the left {a}, on the right {b}",
    "on the left is {a} and on the right is {b}",
    "on the right {b}, on the left {a}",
    "left {a}, right {b}",
)
"""a is to the left of b."""
DEPTHS = (
    "{a} in front and {b} behind",
    "{a} in the foreground and {b} in the background",
    "in front {a}, behind it {b}",
    "in the foreground {a}, in the background {b}",
    "{b} in the background and {a} in the foreground",
)
"""a is in front of b."""
ROWS = ("from left to right: {row}", "{row}, from left to right", "left to right: {row}", "{row} from left to right")
"""What follows is told from left to right."""
MIDDLES = (
    "{a} on the left, {b} in the middle and {c} on the right",
    "on the left {a}, in the middle {b}, on the right {c}",
    "{b} in the middle, {a} on the left and {c} on the right",
    "{b} between {a} and {c}",
)
"""a, b and c stand from left to right; what a thing is between is named in this order too."""
NOT_OPENED = ("from ", "left ", "right ", "to ", "on ", "in ", *IN_FRONT_OF, *BEHIND)
"""What begins like this is not introduced by "a photo of"."""

"""Names for containers that nobody named: an adjective and an animal, `brave-heron`."""

import random

_ADJECTIVES = """
    able agile amber ample brave bright brisk calm candid clever crisp daring eager early fair fleet fond frank fresh
    gentle glad golden grand green happy hardy honest humble jolly keen kind lively loyal lucid lucky mellow merry mild
    modest neat nimble noble patient placid plain polite proud quick quiet ready royal rustic sage serene sharp shy
    silent silver simple smart solid sound spry steady still stout sturdy subtle sunny swift tame tender tidy true
    upbeat vivid warm wary wise witty young zesty
"""
_ANIMALS = """
    adder badger beaver bison bittern bobcat bream bunting buzzard carp condor coot cormorant crane cricket curlew
    dipper dormouse dove dunlin eagle eel egret eider elk falcon ferret finch fox gannet gecko goose grebe grouse gull
    hare harrier hawk hedgehog heron hobby ibis jackdaw jay kestrel kite lark linnet lynx magpie marten merlin mole moth
    newt nuthatch osprey otter owl perch petrel pike pipit plover puffin quail rail raven robin rook salmon seal shrew
    siskin skylark snipe sparrow starling stoat stork swallow swan swift teal tern thrush toad trout turtle vole warbler
    weasel whale wigeon wolf wren
"""


def generate() -> str:
    """A name; it may be taken already."""
    return f"{random.choice(_ADJECTIVES.split())}-{random.choice(_ANIMALS.split())}"

"""Distillation: a teacher, a student, and the stages between them.

trainer    teachers and students of one recipe, and their caches
stage      one stage of one student: what is chosen, and its loss
methods    the named methods, each a list of stages
loop       the one training loop
outputs    a teacher's answers and features, computed once
fakequant  a network that rounds as its int8 file will
features   intermediate outputs of two networks, and which belong together
processes  the processes that train together
control    what the teacher was worth
"""

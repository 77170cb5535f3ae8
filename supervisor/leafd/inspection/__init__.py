"""What `leafctl debug` finds: one module per topic, each a function from a Target to JSON.

Rules:
1. It reads /proc and the cgroup itself. The shim is asked only who it is and what nobody else can see, so that looking
   delays no exit; where it does not answer, its checkpoint says where to look.
2. It changes nothing: nothing is stopped, traced or signalled.
3. What ends while we look is left out; what the kernel does not tell us is null.
"""

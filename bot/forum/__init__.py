"""The desk in Telegram: each ticket a topic of a forum group.

Outwards: `forum` looks what a group's topics lack; `telling` says it there, `looks` has each topic look like its
ticket; both put things there by `posting`. `topics` is the record of what stands there, `calls` what goes into one
call, `text` and `words` how it reads, `groups` where a ticket belongs, `pauses` when what failed is tried again.
Inwards: `intake` does what agents write and press, by `acts`; `people` knows who they are. Tables: `records`.
"""

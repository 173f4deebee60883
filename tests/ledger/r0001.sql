-- A ledger as version 0001 left it: a course that gives to Ana, a lease that ended, and one that
-- goes on (A100, 3,600 tokens an hour: a second costs a token). For both databases.
INSERT INTO courses ("name", "title", "student_cap", "created_at") VALUES
  ('physics', 'physics', 500000000, 1772442000000000);
INSERT INTO accounts ("id", "kind", "name", "course", "expires_at", "balance", "n_postings") VALUES
  (1, 'course', 'physics', '', 0, 200000000, 5),
  (2, 'issued', '', '', 0, -1700000000, 2),
  (3, 'user', 'ana', '', 0, 0, 8),
  (4, 'user', 'ana', 'physics', 0, 0, 2),
  (5, 'holds', '', '', 0, 470000000, 7),
  (6, 'revenue', '', '', 0, 1030000000, 3);
INSERT INTO transactions ("id", "key", "code", "at", "recorded_at", "request_digest", "lease_id", "actor", "note") VALUES
  (1, 'test:1', 'budget', 1772441940000000, 1795366558703297, 'a452d659cc06b0b59e322199a1fa9a9928b6d1cfa08ad424b6668efc322af74d', '', 'torchroom', ''),
  (2, 'test:2', 'grant', 1772441940000000, 1795366558713337, '1dbd343e5bf5ca3174d6e0263d91697d50eaf19953ada0967d0d4066ce6e3f78', '', 'torchroom', ''),
  (3, 'ask:ivy:w1', 'hand_out', 1772442000000000, 1795366558741080, '7bf60a30343a3bedafc66af230d7e685fe59fe92c02eb648fffea280a0e3af3d', '', 'ivy', ''),
  (4, 'hold:ls_1:0:0', 'hold', 1772442000000000, 1795366558772956, '590102ec565bad529b18ed3f945f17931ba4524f4fc7a691bc87b366dc778a55', 'ls_1', 'torchroom', ''),
  (5, 'settle:ls_1:1', 'settle', 1772442400000000, 1795366558829905, '02b5f140c1840d82f8dd58d22c4c8558055c625cbf332183c076cc6f3e849e80', 'ls_1', 'torchroom', ''),
  (6, 'hold:ls_1:400:1', 'hold', 1772442400000000, 1795366558829905, 'ba3fcd343415cb80a63de8e3d079bbc1435e00f2db3b3319a8d7d47300349673', 'ls_1', 'torchroom', ''),
  (7, 'settle:ls_1:2', 'settle', 1772442630000000, 1795366558867470, '96511930421b848b539db14dbb01445436dae0dd80f3a2374464f2ffaf008fa3', 'ls_1', 'torchroom', ''),
  (8, 'hold:ls_2:0:0', 'hold', 1772443000000000, 1795366558880646, '590102ec565bad529b18ed3f945f17931ba4524f4fc7a691bc87b366dc778a55', 'ls_2', 'torchroom', ''),
  (9, 'settle:ls_2:3', 'settle', 1772443400000000, 1795366558902669, '26f270565d90aefc54473ddd69378bd171f04b95d2fd9dc635cbb8fa884b90ce', 'ls_2', 'torchroom', ''),
  (10, 'hold:ls_2:400:3', 'hold', 1772443400000000, 1795366558902669, 'b29d5dd44d9ee759112cf558924d6394b41b2c2f354f4cd35692c103682e05c4', 'ls_2', 'torchroom', '');
INSERT INTO postings ("id", "transaction_id", "account_id", "amount", "balance_after", "is_lease") VALUES
  (1, 1, 2, -700000000, -700000000, 0),
  (2, 1, 1, 700000000, 700000000, 0),
  (3, 2, 2, -1000000000, -1700000000, 0),
  (4, 2, 3, 1000000000, 1000000000, 0),
  (5, 3, 1, -10000000, 690000000, 0),
  (6, 3, 4, 10000000, 10000000, 0),
  (7, 4, 4, -10000000, 0, 1),
  (8, 4, 1, -490000000, 200000000, 1),
  (9, 4, 3, -100000000, 900000000, 1),
  (10, 4, 5, 600000000, 600000000, 1),
  (11, 5, 5, -600000000, 0, 1),
  (12, 5, 6, 400000000, 400000000, 1),
  (13, 5, 1, 100000000, 300000000, 1),
  (14, 5, 3, 100000000, 1000000000, 1),
  (15, 6, 1, -100000000, 200000000, 1),
  (16, 6, 3, -500000000, 500000000, 1),
  (17, 6, 5, 600000000, 600000000, 1),
  (18, 7, 5, -600000000, 0, 1),
  (19, 7, 6, 230000000, 630000000, 1),
  (20, 7, 3, 370000000, 870000000, 1),
  (21, 8, 3, -600000000, 270000000, 1),
  (22, 8, 5, 600000000, 600000000, 1),
  (23, 9, 5, -600000000, 0, 1),
  (24, 9, 6, 400000000, 1030000000, 1),
  (25, 9, 3, 200000000, 470000000, 1),
  (26, 10, 3, -470000000, 0, 1),
  (27, 10, 5, 470000000, 470000000, 1);
INSERT INTO holds ("id", "transaction_id", "lease_id", "amount", "expires_at") VALUES
  (1, 4, 'ls_1', 600000000, 1772528400000000),
  (2, 6, 'ls_1', 600000000, 1772528800000000),
  (3, 8, 'ls_2', 600000000, 1772529400000000),
  (4, 10, 'ls_2', 470000000, 1772529800000000);
INSERT INTO hold_ends ("hold_id", "transaction_id", "how") VALUES
  (1, 5, 'settle'),
  (2, 7, 'settle'),
  (3, 9, 'settle');
INSERT INTO leases ("id", "user", "server", "course", "slot_types", "per_hour", "held_at", "ready_at", "settled_s", "charged", "from_course", "hold_id", "warned_s", "ended_at", "closed_at", "reason") VALUES
  ('ls_1', 'ana', 'ls_1', 'physics', '["A100"]', 3600000000, 1772442000000000, 1772442000000000, 630, 630000000, 490000000, NULL, 1800, 1772442630000000, 1772442690000000, 'stopped by its user'),
  ('ls_2', 'ana', 'ls_2', 'physics', '["A100"]', 3600000000, 1772443000000000, 1772443000000000, 400, 400000000, 0, 4, 600, 0, 0, '');
INSERT INTO draws ("course", "user", "amount") VALUES
  ('physics', 'ana', 500000000);
INSERT INTO prices ("id", "key", "per_hour", "valid_from", "actor", "recorded_at") VALUES
  (1, 'A100', 3600000000, 1772438400000000, 'ada', 1772442000000000);

"""Birds on the wing."""

from dataclasses import replace

from training.data.synthbirds.anatomy import FINGERED, SPREAD, TAIL, Bill, Eye, Fan, Silhouette
from training.data.synthbirds.geometry import points

SONGBIRD_FLYING = Silhouette(
    stance="flying",
    body=points(
        "84.5,43.5 80.5,37.6 73.5,36 66,39 56.5,42.5 45,47 35,52 29,56 30,60 40,63 52,64.4 64,62.6 "
        "74.5,58 81.5,52 84.8,48"
    ),
    crown=points("87,42.5 82,32 68,31 60,42 64,46 70,43 78,41"),
    face=points("88,43 78,40.5 70,42 63,45 66,53 74,55 86,52"),
    breast=points("88,50 74,52 66,52 61,56 62,66 74,64 86,55"),
    belly=points("64,55 50,55 38,57 26,59 32,68 52,71 66,67"),
    spine=points("82,40 66,48 46,56 28,59"),
    wing=Fan(root=points("66,46 67,34 61,22 50,11"), tip=points("42,56 36,43 27,29 22,13 32,1"), rows=SPREAD),
    far_wing=Fan(root=points("72,43 78,31 81,19 80,8"), tip=points("57,46 57,34 59,21 64,7 77,0"), rows=SPREAD),
    tail=Fan(root=points("32,53.5 31,60.5"), tip=points("7,56 5,62 9,68.5"), rows=TAIL),
    bill=Bill(
        upper=points("83.8,42.2 88.5,43.4 95,47 95,47 89,47.4 84.4,46.8"),
        lower=points("84.4,46.2 89,47 93.5,47.4 93.5,47.4 88.5,48.8 84.2,48.6"),
    ),
    eyes=(Eye((78.8, 42.6), 1.65),),
    crest=points("80.5,38 74,33.5 66,30 58,30 62,35 63,40 72,39"),
)

GULL_FLYING = replace(
    SONGBIRD_FLYING,
    wing=Fan(root=points("64,46 61,32 50,21 32,12"), tip=points("43,54 36,43 26,32 12,20 6,5"), rows=SPREAD),
    far_wing=Fan(root=points("70,43 76,30 84,20 92,12"), tip=points("57,46 61,34 70,24 83,12 97,0"), rows=SPREAD),
    tail=Fan(root=points("32,53.5 31,60.5"), tip=points("12,55 10,61 13,67"), rows=TAIL),
    bill=Bill(
        upper=points("83.8,42.4 89,43 93.8,45.2 93.6,47.9 89,46.8 84.6,46.4"),
        lower=points("84.6,45.9 89,46.5 92,47.3 89,48.4 84.4,48.2"),
    ),
)

HAWK_FLYING = replace(
    SONGBIRD_FLYING,
    wing=Fan(root=points("66,47 66,33 58,19 46,9"), tip=points("38,58 29,45 18,32 11,15 25,-1"), rows=SPREAD),
    far_wing=Fan(root=points("72,43 78,31 84,20 86,10"), tip=points("55,46 55,33 60,20 68,5 86,-2"), rows=SPREAD),
    tail=Fan(root=points("33,52.5 32,61.5"), tip=points("8,52 4,60 8,70"), rows=TAIL),
    stern=True,
    bill=Bill(
        upper=points("83.4,41.4 88.5,42 92.8,46 92.2,50.6 89.4,48.2 84.6,47.6"),
        lower=points("84.6,47 88.5,47.8 90,49 87.5,50 84.4,49.8"),
    ),
)

PARROT_FLYING = replace(
    SONGBIRD_FLYING,
    tail=Fan(root=points("33,53 32,61"), tip=points("3,58 -3,62 4,66.5"), rows=TAIL),
    bill=Bill(
        upper=points("82.6,40.4 89.5,41.2 94,46.6 93,54 93,54 90,49.4 84.4,48.4"),
        lower=points("84.4,47.8 89,49 90.6,51.4 90.6,51.4 87.4,53 83.8,52"),
    ),
)

DUCK_FLYING = replace(
    SONGBIRD_FLYING,
    body=points(
        "86,40.5 82.5,35 76.5,33.6 71,37 67.5,42.5 58,45 45,47.5 34,51 27,55 28,59.5 38,63.5 51,65.4 "
        "63,63.4 71.5,58.5 76.5,53.5 80.5,48.8 85,46.5"
    ),
    eyes=(Eye((79.6, 39.6), 1.8),),
    tail=Fan(root=points("30,53 29,60"), tip=points("13,54 11,58.5 14,63"), rows=TAIL),
    bill=Bill(
        upper=points("85.4,39.2 90,41.8 96.5,43.6 99.5,45.4 96,46.8 86,45.2"),
        lower=points("86,44.6 91,46 97,46.6 91,47.8 85.4,47"),
    ),
)

HUMMINGBIRD = Silhouette(
    stance="hovering",
    body=points(
        "76,35.5 73,30.6 67,28.6 61,31 57,37 51.5,45 45,53 39,60.5 35,66.5 37,70 44,69.5 53,65.8 "
        "61.5,60 68,53 71.5,46 74,42.5 76.2,39"
    ),
    crown=points("79,35 75,26 63,24 54,36 58,41 64,36.5 71,34"),
    face=points("79,35 71,33.5 64,36 57,41 62,48 70,50 79,42"),
    breast=points("79,42 70,43 62,46 57,54 60,64 70,60 78,48"),
    belly=points("61,54 52,56 42,60 32,68 40,75 54,72 66,62"),
    spine=points("73,31 62,43 50,58 36,68"),
    wing=Fan(root=points("62,45 57,34 46,21 31,9"), tip=points("47,53 40,44 30,32 19,18 16,3"), rows=SPREAD),
    far_wing=Fan(root=points("66,42 69,31 70,19 67,8"), tip=points("57,45 56,35 54,22 54,9 62,-1"), rows=SPREAD),
    tail=Fan(root=points("39,60.5 44,68.5"), tip=points("24,73 23,79 29,83"), rows=TAIL),
    bill=Bill(
        upper=points("75.6,34.8 84,33.5 98,29.4 98,29.4 84,34.7 76,36.6"),
        lower=points("76,36.2 84,34.5 96.5,29.9 96.5,29.9 84,35.5 75.8,37.8"),
    ),
    eyes=(Eye((69.6, 35.6), 1.65),),
    legs=(),
    crest=points("73,31 67,26 59,22 51,22 55,27 55,32 60,36 66,31"),
)

EAGLE_FLYING = replace(
    HAWK_FLYING,
    body=points(
        "85,42 81,36.6 74,35 66.5,37.8 57,41.5 46,45.5 36,50.5 29,55 30,60.5 40,64.5 52,66.5 65,65 75.5,60 "
        "82,53.4 85.4,47.6"
    ),
    wing=Fan(root=points("66,47 62,32 50,21 34,15"), tip=points("38,58 28,48 16,37 3,22 8,-4"), rows=FINGERED),
    far_wing=Fan(root=points("72,43 79,30 88,20 93,12"), tip=points("54,46 57,32 66,18 82,4 100,-2"), rows=FINGERED),
    tail=Fan(root=points("34,51.5 33,63"), tip=points("8,50 3,59 8,71"), rows=TAIL),
    bill=Bill(
        upper=points("83.6,40.6 90,40.8 96,44.4 97,51.6 93.6,48 84.8,47.4"),
        lower=points("84.8,47 90.6,47.6 93,48.8 89.6,50.2 84.6,49.8"),
    ),
)

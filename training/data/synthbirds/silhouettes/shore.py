"""Birds of water and shore, at rest."""

from dataclasses import replace

from training.data.synthbirds.anatomy import TAIL, Bill, Eye, Fan, Silhouette
from training.data.synthbirds.geometry import points

DUCK_SWIMMING = Silhouette(
    stance="swimming",
    body=points(
        "80,33 77.5,26.5 71,23.2 64.5,25 61,30.5 60.5,37.5 57,44 48,46.5 36,47.5 24,48.5 13.5,45.5 10.5,48 "
        "14,56 19,64 27,70.5 40,74 56,74.5 70,71 78.5,63.5 80.5,55.5 77.5,49 76,44.5 78,40.5"
    ),
    crown=points("83,31 80,20 63,19 57,32 59,39 65,33 73,29.5"),
    face=points("83,32 73,28.5 64,32 58,39 60,43 70,46 80,44"),
    breast=points("82,44 70,44 62,47 60,56 63,68 72,74 86,62"),
    belly=points("66,62 52,63 36,62 20,58 14,66 30,80 60,82 72,74"),
    spine=points("78,28 64,42 48,58 14,52"),
    wing=Fan(root=points("58,48 65,51.5 66,58 60,64"), tip=points("34,49 22,50.5 12,53.5 27,60.5 44,66"), bulge=(0, 4)),
    tail=Fan(root=points("22,48.5 19,60"), tip=points("7.5,40.5 4.5,45 9,52"), rows=TAIL),
    bill=Bill(
        upper=points("79,31.4 84,34.2 91.5,36.6 95,38.6 91.5,40.2 79.6,38.6"),
        lower=points("79.4,37.8 86,39.2 92.5,40 86,41.4 79.2,40.8"),
    ),
    eyes=(Eye((72.6, 31), 1.7),),
    crest=points("70,25 63,23 55,25 50.5,30 49,36 54,35 60,38 63,34"),
    waterline=67.0,
)

DUCK_STANDING = replace(
    DUCK_SWIMMING,
    stance="standing",
    waterline=100.0,
    legs=(points("53,73 52,78 53,83.5"), points("43,73 42,78 42,83.5")),
)

GULL_STANDING = Silhouette(
    stance="standing",
    body=points(
        "81,32 78,26 71.5,23 65,24.8 61,30 56.5,36.5 47,41.5 35,47 25,53 18.5,58 19,61 28,64.5 "
        "40,68.5 52,70 64,66.5 72.5,59.5 76.5,50.5 78,43.5 80.5,38.5"
    ),
    crown=points("83,30.5 79,20 64,19 56,31 58,37 65,31.5 74,29"),
    face=points("84,31 74,28.5 65,30.5 58,36.5 61,43 70,46 82,43"),
    breast=points("84,43 70,44 63,49 60,58 63,66 70,68 84,56"),
    belly=points("64,57 52,58 38,60 16,60 26,72 48,77 68,72 69,62"),
    spine=points("78,27 62,36 48,54 20,60"),
    wing=Fan(
        root=points("61,41 67.5,45.5 67,53 61,58"), tip=points("40,46.5 22,54 4,63 24,62.5 44,63.5"), bulge=(0, 4)
    ),
    tail=Fan(root=points("24,54.5 24,62"), tip=points("9,60 7,63 9.5,66"), rows=TAIL),
    bill=Bill(
        upper=points("80.6,31.2 86,31.9 90.6,34 90.5,37 86.2,35.7 80.8,35.4"),
        lower=points("80.8,34.9 86,35.3 88.6,36 86,37.4 80.6,37.6"),
    ),
    eyes=(Eye((74.6, 31), 1.5),),
    legs=(points("54,68 54,78 54,88"), points("46,68 45,78 45,88")),
    crest=points("77,26 70,21.5 62,19 54,20 57,24 56,28.5 61,31 68,27"),
)

GULL_SWIMMING = replace(GULL_STANDING, stance="swimming", waterline=65.5, legs=())

HERON = Silhouette(
    stance="standing",
    body=points(
        "74,14.5 70.5,10.6 64.5,9.4 59,11.4 56,16 56.8,21.5 60.4,27 61.4,32 58,37.5 51,41.5 42,45.5 32,51 "
        "23.5,58 19,64.5 22,67.5 32,67.8 43,66.8 53,64.5 61.5,59 67.5,51 70,42.5 70,34.5 67.4,27.5 64.6,22.4 "
        "65.6,19.6 70.5,18.9 73.8,18"
    ),
    crown=points("77,13.8 71,6 58,6 51,17 55,19 63,13.6 70,12.8"),
    face=points("77,14 70,12.4 62,13.4 54,18 55,25 62,28 70,24 77,19"),
    breast=points("72,24 62,24 56,28 60,34 58,42 57,50 62,58 72,52 75,38"),
    belly=points("60,52 50,56 36,60 18,64 22,71 44,71 58,67 67,57"),
    spine=points("72,11 58,18 63,34 50,54 22,66"),
    wing=Fan(root=points("52,43 59,47 59,54 53,59"), tip=points("36,50 26,57 14,69 27,67 42,65"), bulge=(0, 3)),
    tail=Fan(root=points("25,58 25,66"), tip=points("13,68 13,72 17,74"), rows=TAIL),
    bill=Bill(
        upper=points("73,12.8 82,14.8 96,18.6 96,18.6 82,17.6 73.6,16.9"),
        lower=points("73.4,16.4 82,17.2 94.5,18.6 94.5,18.6 82,19.2 73,18.8"),
    ),
    eyes=(Eye((68.6, 14.2), 1.7),),
    legs=(points("47,65 48,79 46,95"), points("40,65.5 38.5,79 40,95")),
    crest=points("66,9.6 58,9 49,12 39,18.5 47,16.5 44,20.5 52,17.5 57,18 62,13"),
)

// The search at the end of a token, bit for bit as `cptr_core::recall`: every remembered place but the newest 12 gets a
// distance, one a cycle, and the nearest stay in a chain.
module unit_search #(
  parameter int unsigned WORDS = 4,
  parameter int unsigned TOKENS = 1024,
  parameter int unsigned PLACES = 64,
  parameter int unsigned SLOT = $clog2(TOKENS),
  parameter int unsigned WORD = $clog2(WORDS)
) (
  input  logic                   clk,
  input  logic                   rst_n,
  // Slots in use, 64 to TOKENS; places that are kept, 1 to PLACES.
  input  logic [SLOT:0]          slots,
  input  logic [$clog2(PLACES):0] candidates,
  input  logic                   clear,
  input  logic                   start,
  output logic                   done,
  input  logic [32*WORDS-1:0]    now,
  output logic [SLOT-1:0]        slot,
  output logic [SLOT-1:0]        complete,
  output logic [31:0]            reach,
  output logic [$clog2(PLACES):0] found,
  output logic [PLACES*32-1:0]   nearest,
  // The window for software: signatures and distances, and the state between tokens.
  input  logic                   window_read,
  input  logic                   window_write,
  input  logic                   window_past,
  input  logic                   window_state,
  input  logic [SLOT+WORD-1:0]   window_address,
  input  logic [31:0]            window_data,
  output logic [31:0]            window_word
);
  localparam int unsigned NEWEST = 12;
  localparam int unsigned BITS = 32 * WORDS;
  localparam int unsigned FIRST = (WORDS < 4) ? 1 : WORDS / 4;
  localparam int unsigned TIMES = $clog2(WORDS / FIRST);
  localparam int unsigned COUNT = $clog2(BITS + 1);
  // Of a place of which nothing is known, half of the bits always differ.
  localparam logic [63:0] UNKNOWN = (64'(BITS) * (64'd32 << 22)) / 64'd19;

  typedef enum logic [2:0] {IDLE, CLEAR, STORE, AGES, DRAIN, LAST} state_t;
  state_t state;
  logic [SLOT:0] age, cleared;
  logic [7:0] wait_steps;

  logic [BITS-1:0] signature, changed;
  logic [31:0] past;
  wire [SLOT:0] back = {1'b0, slot} >= age ? {1'b0, slot} - age : {1'b0, slot} + slots - age;
  wire [SLOT-1:0] past_of_age = SLOT'(slots - (SLOT + 1)'(1) - age);

  // Reads, and what comes of them: xor; counts of words; the distance looked at and the whole one; the one that counts.
  logic [4:0] valid;
  logic [SLOT-1:0] place_1, place_2, place_3, place_4, place_5;
  logic [SLOT:0] age_1, age_2, age_3, age_4, age_5;
  logic [BITS-1:0] differ_2;
  logic [WORDS*6-1:0] counts_3;
  logic [COUNT-1:0] all_3, all_4, few_3, few_4;
  logic [34:0] past_2;
  logic [31:0] old_3, old_4, past_5;
  logic [31:0] look, whole;
  logic [32:0] reach_further;
  logic [31:0] beyond;
  assign reach_further = {1'b0, reach} + (33'(BITS) << 17);
  assign beyond = reach_further[32] ? 32'hffff_ffff : reach_further[31:0];

  logic [WORD-1:0] first_word;
  assign first_word = WORD'(32'(slot) * FIRST);
  logic [BITS-1:0] turned;
  // From the word whose turn it is.
  assign turned = BITS'({differ_2, differ_2} >> {first_word, 5'd0});
  always_comb begin
    all_3 = '0;
    for (int i = 0; i < WORDS; i++) all_3 = all_3 + COUNT'(counts_3[6*i+:6]);
    few_3 = '0;
    for (int i = 0; i < FIRST; i++) few_3 = few_3 + COUNT'(counts_3[6*i+:6]);
  end
  function automatic logic [5:0] ones(input logic [31:0] bits);
    ones = '0;
    for (int i = 0; i < 32; i++) ones = ones + 6'(bits[i]);
  endfunction
  for (genvar i = 0; i < WORDS; i++) begin : words
    always_ff @(posedge clk) counts_3[6*i+:6] <= ones(turned[32*i+:32]);
  end
  assign look = (32'(few_4) << (22 + TIMES)) + old_4;
  assign whole = (32'(all_4) << 22) + old_4;
  wire [40:0] past_45 = 41'(past_2) + (41'(past_2) << 3);
  always_ff @(posedge clk) begin
    {place_5, place_4, place_3, place_2, place_1} <= {place_4, place_3, place_2, place_1, past_of_age};
    {age_5, age_4, age_3, age_2, age_1} <= {age_4, age_3, age_2, age_1, age};
    differ_2 <= signature ^ now;
    past_2 <= {3'd0, past} + {1'b0, past, 2'd0};
    old_3 <= past_45[37:6];
    {all_4, few_4, old_4} <= {all_3, few_3, old_3};
    past_5 <= look <= beyond ? whole : look;
  end

  unit_ram #(.WIDTH(BITS), .DEPTH(TOKENS)) signatures (
    .clk, .read(state == AGES | window_read),
    .read_address(window_read ? window_address[SLOT+WORD-1:WORD] : back[SLOT-1:0]),
    .read_data(signature), .write(state == STORE | (window_write & ~window_past)),
    .write_address(state == STORE ? slot : window_address[SLOT+WORD-1:WORD]),
    .write_data(state == STORE ? now : changed)
  );
  unit_ram #(.WIDTH(32), .DEPTH(TOKENS)) distances (
    .clk, .read(state == AGES | window_read), .read_address(window_read ? window_address[SLOT-1:0] : past_of_age),
    .read_data(past), .write(valid[4] | state == CLEAR | (window_write & window_past)),
    .write_address(state == CLEAR ? cleared[SLOT-1:0] : window_write ? window_address[SLOT-1:0] : place_5),
    .write_data(state == CLEAR ? UNKNOWN[31:0] : window_write ? window_data : past_5)
  );
  logic [31:0] signature_word;
  unit_pick #(.N(WORDS), .WIDTH(32)) pick_word (
    .entries(signature), .index(window_address[WORD-1:0]), .entry(signature_word)
  );
  assign window_word = window_past ? past : signature_word;
  for (genvar i = 0; i < WORDS; i++) begin : window_words
    assign changed[32*i+:32] = window_address[WORD-1:0] == WORD'(i) ? window_data : signature[32*i+:32];
  end

  // The nearest: a distance in 64ths of a bit and the age less one; the smallest keys.
  logic [PLACES-1:0] full;
  logic [PLACES*32-1:0] keys;
  wire [15:0] age_less_one = 16'(age_5) - 16'd1;
  unit_rank_chain #(.K(PLACES), .KEY(32), .DATA(1)) chain (
    .clk, .rst_n, .clear(state == CLEAR | state == STORE), .enabled({PLACES{1'b1}}),
    .in_valid(valid[4]), .in_key(~{past_5[31:16], age_less_one}), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full, .keys, .data()
  );
  assign nearest = ~keys;
  logic [$clog2(PLACES)-1:0] last_place;
  assign last_place = ($clog2(PLACES))'(candidates - 1'b1);
  logic [31:0] last_key;
  logic last_full;
  logic [PLACES*33-1:0] marked;
  for (genvar i = 0; i < PLACES; i++) begin : marks
    assign marked[33*i+:33] = {full[i], nearest[32*i+:32]};
  end
  unit_pick #(.N(PLACES), .WIDTH(33)) pick_last (.entries(marked), .index(last_place), .entry({last_full, last_key}));

  always_ff @(posedge clk) begin
    if (state == CLEAR) begin
      {slot, complete, found} <= '0;
      reach <= 32'hffff_ffff;
    end else if (window_state && window_write) begin
      case (window_address[1:0])
        2'd0: slot <= window_data[SLOT-1:0];
        2'd1: complete <= window_data[SLOT-1:0];
        2'd2: reach <= window_data;
        default: ;
      endcase
    end else if (state == LAST) begin
      reach <= last_full ? {last_key[31:16], 16'd0} : 32'hffff_ffff;
      if (last_full) found <= candidates;
      else found <= 32'(complete) > NEWEST ? ($clog2(PLACES) + 1)'(32'(complete) - NEWEST) : '0;
      slot <= {1'b0, slot} + 1'b1 == slots ? '0 : slot + 1'b1;
      if ({1'b0, complete} + 1'b1 < slots) complete <= complete + 1'b1;
    end
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {age, cleared, wait_steps, valid} <= '0;
      done <= 1'b0;
    end else begin
      done <= 1'b0;
      valid <= {valid[3:0], state == AGES};
      case (state)
        IDLE: begin
          cleared <= '0;
          if (clear) state <= CLEAR;
          else if (start) state <= STORE;
        end
        CLEAR: begin
          cleared <= cleared + 1'b1;
          if (cleared == (SLOT + 1)'(TOKENS - 1)) begin
            state <= IDLE;
            done <= 1'b1;
          end
        end
        STORE: begin
          age <= {1'b0, complete};
          wait_steps <= '0;
          state <= 32'(complete) > NEWEST ? AGES : LAST;
        end
        AGES: begin
          age <= age - 1'b1;
          if (age == (SLOT + 1)'(NEWEST + 1)) state <= DRAIN;
        end
        DRAIN: begin
          wait_steps <= wait_steps + 8'd1;
          if (wait_steps == 8'(PLACES + 8)) state <= LAST;
        end
        default: begin
          state <= IDLE;
          done <= 1'b1;
        end
      endcase
    end
  end
endmodule
